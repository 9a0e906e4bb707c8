//! Comparing and copying bytes without `memcmp` and `memcpy`.

/// Whether two texts are the same.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && starts_with(a, b)
}

/// Whether a text begins with another one.
pub(crate) fn starts_with(text: &[u8], beginning: &[u8]) -> bool {
    text.len() >= beginning.len() && text.iter().zip(beginning).all(|(a, b)| a == b)
}

/// Where a text has another one first.
pub(crate) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    (0..text.len()).find(|at| text.get(*at..).is_some_and(|rest| starts_with(rest, wanted)))
}

/// A buffer that is filled from the front.
pub(crate) struct Filled<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Filled<'a> {
    /// An empty one.
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// Appends bytes; none where they do not all fit.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.length.checked_add(bytes.len())?;
        let room = self.buffer.get_mut(self.length..end)?;
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.length = end;
        Some(())
    }

    /// Appends a number in decimal digits.
    pub(crate) fn push_number(&mut self, number: usize) -> Option<()> {
        if number >= 10 {
            self.push_number(number / 10)?;
        }
        // A digit.
        self.push(&[b'0' + u8::try_from(number % 10).ok()?])
    }

    /// What has been appended.
    pub(crate) fn into_bytes(self) -> &'a [u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_and_found() {
        assert!(
            same(b"ADD", b"ADD") && !same(b"ADD", b"ADDS") && !same(b"ADDS", b"ADD") && !same(b"A", b"B")
        );
        assert!(starts_with(b"CNI_ARGS=x", b"CNI_") && !starts_with(b"CN", b"CNI_"));
        assert_eq!(
            (find(b"a\r\n\r\nb", b"\r\n\r\n"), find(b"a", b"b"), find(b"", b"b")),
            (Some(1), None, None)
        );
    }

    #[test]
    fn what_does_not_fit_is_not_appended() {
        let mut buffer = [0; 8];
        let mut filled = Filled::new(&mut buffer);
        assert_eq!(filled.push(b"a"), Some(()));
        assert_eq!(filled.push_number(12_000_000), None);
        let mut buffer = [0; 8];
        let mut filled = Filled::new(&mut buffer);
        assert_eq!((filled.push_number(0), filled.push_number(4096)), (Some(()), Some(())));
        assert_eq!(filled.push(b"beef"), None);
        assert_eq!(filled.into_bytes(), b"04096");
    }
}
