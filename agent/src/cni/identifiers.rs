//! What container IDs and interface names may look like, by the CNI specification and the kernel.

use super::error::{Error, code};

/// File names end at 255 bytes, and an ID is part of one. Real IDs have 64.
const CONTAINER_ID_MAX: usize = 200;
/// `IFNAMSIZ` without its terminating zero.
const INTERFACE_NAME_MAX: usize = 15;

/// Checks a container ID.
pub fn container_id(id: &str) -> Result<(), Error> {
    let fault = if id.is_empty() {
        "it is empty"
    } else if id.len() > CONTAINER_ID_MAX {
        "it is longer than 200 characters"
    } else if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "it must start with a letter or a digit"
    } else if !id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        "only letters, digits, '_', '.' and '-' are allowed"
    } else {
        return Ok(());
    };
    Err(invalid("CNI_CONTAINERID", id, fault))
}

/// Checks the name for an interface.
pub fn interface_name(name: &str) -> Result<(), Error> {
    let fault = if name.is_empty() {
        "it is empty"
    } else if name.len() > INTERFACE_NAME_MAX {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "it is a folder's name"
    } else if name.chars().any(|c| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control()) {
        "'/', ':', '%', blanks and control characters are not allowed"
    } else {
        return Ok(());
    };
    Err(invalid("CNI_IFNAME", name, fault))
}

/// An invalid variable: the specification wants its name in the text.
pub fn invalid(variable: &str, value: &str, fault: &str) -> Error {
    Error::new(code::INVALID_ENVIRONMENT, format!("invalid {variable} {value:?}: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_follow_the_specification() {
        for good in ["a", "0f3c", "k8s_POD.x-1", &"a".repeat(200)] {
            assert_eq!(container_id(good), Ok(()));
        }
        for bad in ["", "-a", ".", "../x", "a/b", "a b", "ä", &"a".repeat(201)] {
            let error = container_id(bad).unwrap_err();
            assert_eq!(error.code, 4);
            assert!(error.msg.contains("CNI_CONTAINERID"), "{error}");
        }
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        for good in ["eth0", "net1.100", "a-b_c@d", "123456789012345"] {
            assert_eq!(interface_name(good), Ok(()));
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "eth%d", "a\n", "1234567890123456"] {
            let error = interface_name(bad).unwrap_err();
            assert_eq!(error.code, 4);
            assert!(error.msg.contains("CNI_IFNAME"), "{error}");
        }
    }
}
