//! The agent's answer.

use crate::text::{find, starts_with};

/// What the agent says.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(crate) enum Answer<'a> {
    /// More is to come.
    Unfinished,
    /// Done: for the runtime.
    Done(&'a [u8]),
    /// Refused, for good: the error for the runtime.
    Refused(&'a [u8]),
    /// Anything else.
    Odd,
}

/// Reads what has arrived.
pub(crate) fn read(answer: &[u8]) -> Answer<'_> {
    let Some(end) = find(answer, b"\r\n\r\n") else { return Answer::Unfinished };
    let (Some(head), Some(body)) = (answer.get(..end), answer.get(end + 4..)) else { return Answer::Odd };
    let Some(length) = length(head) else { return Answer::Odd };
    if body.len() < length {
        return Answer::Unfinished;
    }
    if body.len() > length {
        return Answer::Odd;
    }
    if starts_with(head, b"HTTP/1.1 200 ") {
        return Answer::Done(body);
    }
    if starts_with(head, b"HTTP/1.1 422 ") && length > 0 {
        return Answer::Refused(body);
    }
    Answer::Odd
}

/// The header's value.
fn length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\r\ncontent-length:";
    let begins = |at: &usize| {
        let rest = head.get(*at..).unwrap_or_default();
        rest.len() >= NAME.len() && rest.iter().zip(NAME).all(|(a, b)| a.to_ascii_lowercase() == *b)
    };
    let at = (0..head.len()).find(begins)?;
    let mut number: Option<usize> = None;
    for byte in head.get(at + NAME.len()..)? {
        match byte {
            b' ' if number.is_none() => {}
            b'0'..=b'9' => {
                let digit = usize::from(byte - b'0');
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
            }
            b'\r' => break,
            _ => return None,
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_is_understood() {
        let of = |text: &'static str| read(text.as_bytes());
        assert_eq!(of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), Answer::Done(b"{}"));
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length:0\r\nx: y\r\n\r\n"), Answer::Done(b""));
        let refused = "HTTP/1.1 422 Unprocessable Entity\r\ndate: x\r\ncontent-length: 1\r\n\r\n{";
        assert_eq!(of(refused), Answer::Refused(b"{"));
    }

    #[test]
    fn what_is_not_whole_is_waited_for() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        for length in 0..whole.len() {
            assert_eq!(read(&whole.as_bytes()[..length]), Answer::Unfinished, "{length}");
        }
    }

    #[test]
    fn anything_else_is_odd() {
        for text in [
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}",
            "nonsense\r\n\r\n",
        ] {
            assert_eq!(read(text.as_bytes()), Answer::Odd, "{text}");
        }
    }
}
