//! The request to the agent: `POST /v1/cni`, see `docs/api.md`.

use crate::text::{Filled, same, starts_with};

/// Writes the request into `buffer`. The body is the environment's CNI variables, each with a zero byte behind it as
/// `/proc/PID/environ` has them, one more zero byte, and the network configuration.
pub(crate) fn write<'a, 'e>(
    buffer: &'a mut [u8],
    environment: impl Iterator<Item = &'e [u8]> + Clone,
    config: &[u8],
) -> Option<&'a [u8]> {
    let variables = || environment.clone().filter(|variable| starts_with(variable, b"CNI_"));
    let length = variables().map(|variable| variable.len() + 1).sum::<usize>() + 1 + config.len();
    let mut request = Filled::new(buffer);
    // Closed behind the answer.
    request.push(b"POST /v1/cni HTTP/1.1\r\nhost: podlane\r\nconnection: close\r\ncontent-length: ")?;
    request.push_number(length)?;
    request.push(b"\r\n\r\n")?;
    for variable in variables() {
        request.push(variable)?;
        request.push(b"\0")?;
    }
    request.push(b"\0")?;
    request.push(config)?;
    Some(request.into_bytes())
}

/// Whether the environment asks for what the agent does by itself.
pub(crate) fn is_for_the_agent<'e>(mut environment: impl Iterator<Item = &'e [u8]>) -> bool {
    environment.any(|variable| same(variable, b"CNI_COMMAND=ADD") || same(variable, b"CNI_COMMAND=DEL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_what_the_agent_needs_and_nothing_else() {
        let environment = ["PATH=/bin", "CNI_COMMAND=ADD", "CNI_ARGS=A=b", "SECRET=x"].map(str::as_bytes);
        let mut buffer = [0; 256];
        let request = write(&mut buffer, environment.into_iter(), b"{}").unwrap();
        let expected = "POST /v1/cni HTTP/1.1\r\nhost: podlane\r\nconnection: close\r\ncontent-length: 32\r\n\r\n\
                        CNI_COMMAND=ADD\0CNI_ARGS=A=b\0\0{}";
        assert_eq!(std::str::from_utf8(request).unwrap(), expected);
        assert_eq!(write(&mut [0; 64], environment.into_iter(), b"{}"), None);
    }

    #[test]
    fn only_add_and_del_are_the_agents() {
        let is = |text: &str| is_for_the_agent(["X=CNI_COMMAND=ADD", text].map(str::as_bytes).into_iter());
        assert!(is("CNI_COMMAND=ADD") && is("CNI_COMMAND=DEL"));
        assert!(!is("CNI_COMMAND=ADDS") && !is("CNI_COMMAND=VERSION") && !is("CNI_COMMAND=") && !is(""));
    }
}
