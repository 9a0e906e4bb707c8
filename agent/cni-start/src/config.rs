//! Whose agent a network configuration means. Only plain ones are understood here: all others are the plugin proper's.

use crate::text::same;

/// Where the agent's socket is unless a configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/podlane/agent.sock";

/// The agent's socket. None where the configuration has an IPAM plugin, which must be called from here, where it has an
/// escape anywhere, or where it is no JSON object as far as that is looked at.
pub(crate) fn socket(config: &[u8]) -> Option<&[u8]> {
    let mut tokens = Tokens { rest: config, depth: 0 };
    let mut socket = None;
    if !matches!(tokens.next()?, Token::Open(b'{')) {
        return None;
    }
    let mut last = Token::Other;
    while tokens.depth > 0 {
        let token = tokens.next()?;
        if let (1, Token::Text(key), Token::Colon) = (tokens.depth, &last, &token) {
            if same(key, b"ipam") {
                return None;
            }
            if same(key, b"socket") {
                // Twice: which one counts is a parser's business.
                let (None, Token::Text(path)) = (socket, tokens.next()?) else { return None };
                socket = Some(path);
            }
        }
        last = token;
    }
    let socket = socket.unwrap_or(DEFAULT_SOCKET.as_bytes());
    (socket.first() == Some(&b'/')).then_some(socket)
}

/// As much of JSON as it takes to know what is a key of the outermost object.
enum Token<'a> {
    Open(u8),
    Close,
    Colon,
    /// Without its quotes.
    Text(&'a [u8]),
    /// A comma, or part of a number, `true`, `false` or `null`.
    Other,
}

struct Tokens<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            return Some(match first {
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                b'{' | b'[' => {
                    self.depth += 1;
                    Token::Open(*first)
                }
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1)?;
                    Token::Close
                }
                b':' => Token::Colon,
                b'"' => {
                    let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
                    if rest.get(length) == Some(&b'\\') {
                        return None;
                    }
                    self.rest = rest.get(length + 1..)?;
                    Token::Text(rest.get(..length)?)
                }
                _ => Token::Other,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_configurations_or_the_default() {
        let of = |text: &'static str| socket(text.as_bytes()).map(|path| std::str::from_utf8(path).unwrap());
        let default = Some("/run/podlane/agent.sock");
        assert_eq!(of(r#"{"cniVersion":"1.0.0","name":"podlane","type":"podlane-cni"}"#), default);
        assert_eq!(of(r#" { "name" : "p", "socket" : "/s" , "x": [1, {"y": true}] } "#), Some("/s"));
        // Not the outermost object's.
        assert_eq!(of(r#"{"args":{"socket":"/s","ipam":{}},"l":["socket","/t"],"v":"socket"}"#), default);
    }

    #[test]
    fn what_needs_more_than_a_glance_is_left_alone() {
        for text in [
            "",
            "[]",
            "{",
            "null",
            r#"{"socket":"/a","socket":"/b"}"#,
            r#"{"socket":5}"#,
            r#"{"socket":"agent.sock"}"#,
            r#"{"name":"a\"b"}"#,
            r#"{"socke\u0074":"/s"}"#,
            r#"{"ipam":{"type":"host-local"}}"#,
            r#"{"ipam":null}"#,
            r#"{"name":"p""#,
            r#"{"name":"p"#,
        ] {
            assert_eq!(socket(text.as_bytes()), None, "{text}");
        }
    }
}
