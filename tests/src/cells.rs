//! A table of cases with names, all of which are tried.

/// Cells of a table and what went wrong in them.
#[derive(Debug, Default)]
pub struct Cells {
    tried: usize,
    failures: Vec<String>,
}

impl Cells {
    /// Adds a cell.
    pub fn check(&mut self, name: String, outcome: anyhow::Result<()>) {
        self.tried += 1;
        self.failures.extend(outcome.err().map(|error| format!("{name}: {error:#}")));
    }

    /// Fails with every cell that failed, and where there are not as many cells as there should be.
    pub fn finish(self, expected: usize) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.failures.is_empty(),
            "{} of {} cells failed:\n{}",
            self.failures.len(),
            self.tried,
            self.failures.join("\n")
        );
        anyhow::ensure!(self.tried == expected, "{} cells were tried, not {expected}", self.tried);
        Ok(())
    }
}
