//! What of the node's own map entries is no longer as the agent wrote it.

use anyhow::Context as _;
use dataplane_common::Settings;

use super::Maps;

impl Maps {
    /// One sentence for each difference; `settings` are those that were written.
    pub(in super::super) fn damage(&mut self, settings: Option<&Settings>) -> anyhow::Result<Vec<String>> {
        let mut damage = self.v4.damage()?;
        damage.extend(self.v6.damage()?);
        if let Some(written) = settings
            && self.settings()? != *written
        {
            damage.push("the map settings was changed".to_owned());
        }
        // What routers have said is forgotten when the tunnels are next written.
        self.tunnels.distrust();
        Ok(damage)
    }

    /// Makes the slots agree with the hashes again, where others have changed them: one sentence then.
    pub(in super::super) fn mend_slots(&mut self) -> anyhow::Result<Vec<String>> {
        let changed4 = self.v4.reread_slots().context("reading the IPv4 slots")?;
        let changed6 = self.v6.reread_slots().context("reading the IPv6 slots")?;
        if !changed4 && !changed6 {
            return Ok(Vec::new());
        }
        self.distrust_slots()?;
        self.v4.align_slots().context("aligning the IPv4 slots")?;
        self.v6.align_slots().context("aligning the IPv6 slots")?;
        self.tell()?;
        Ok(vec!["a slot of pods or routes was changed".to_owned()])
    }

    /// What the programs are told now.
    pub(in super::super) fn settings(&self) -> anyhow::Result<Settings> {
        self.settings.get(&0, 0).context("reading settings")
    }
}
