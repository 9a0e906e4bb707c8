//! What cannot be worked out anew, taken along from maps of another layout: counters, and the flows through the stack.
//!
//! A map of the same shape is pinned in both layouts' folders: programs of both use the same one, and nothing can be
//! missed. Flows of another shape are converted, member by member, once no program notes any more of them.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use aya::Ebpf;

use super::{
    Options,
    load::{Globals, load, map_data},
    shape::Shape,
    sys::{self, MapInfo},
};
use crate::failpoint::step;

const COUNTERS: &str = "counters";
const FLOWS: [&str; 2] = ["stack_flows4", "stack_flows6"];
const GATE: &str = "flow_gate";
const FILTER: &str = "flow_filter";
/// What is shared where it can be.
const SHARED: [&str; 5] = [FLOWS[0], FLOWS[1], GATE, FILTER, COUNTERS];

/// Pins the former layouts' maps in our own folder, where they are of the shape that our programs expect. Returns
/// whether flows are noted in maps that our programs cannot read.
pub(super) fn share(own: &Path, former: &[PathBuf], options: &Options) -> anyhow::Result<bool> {
    // Maps to look at: made as our object wants them, pinned nowhere, gone again at the end.
    let expected = load(None, options, &Globals::default())?;
    let mut apart = false;
    for name in SHARED {
        let wanted = Shape::of(&info_of(&expected, name)?)?;
        for dir in former {
            let Some(theirs) = sys::open(&dir.join(name))? else {
                // Programs of layouts without the filter note flows that it does not have.
                apart |= name == FILTER;
                continue;
            };
            let place = own.join(name);
            let their_info = sys::map_info(&theirs)?;
            let same = match sys::open(&place)? {
                Some(ours) => sys::map_info(&ours)?.id == their_info.id,
                None if Shape::of(&their_info)? == wanted => {
                    sys::pin(&theirs, &place)?;
                    step("map shared");
                    true
                }
                None => false,
            };
            if !same && name == COUNTERS {
                tracing::warn!(
                    from = %dir.display(),
                    "the counters of another map layout cannot be read: they start anew"
                );
            }
            apart |= !same && name != COUNTERS;
        }
    }
    if former.iter().any(|dir| dir.join("tunnels").exists()) {
        tracing::info!("what routers have said of path MTUs under the overlay is learned anew");
    }
    Ok(apart)
}

/// Copies the flows of former layouts to our own maps, where those are not the same.
pub(super) fn merge_flows(own: &Path, former: &[PathBuf]) -> anyhow::Result<()> {
    for name in FLOWS {
        let ours = sys::open(&own.join(name))?.ok_or_else(|| anyhow!("the map {name} is not pinned"))?;
        let our_info = sys::map_info(&ours)?;
        let to = Shape::of(&our_info)?;
        for dir in former {
            let Some(theirs) = sys::open(&dir.join(name))? else { continue };
            let info = sys::map_info(&theirs)?;
            if info.id == our_info.id {
                continue;
            }
            let from = Shape::of(&info)?;
            let Some(conversion) = from.to(&to) else {
                tracing::warn!(
                    from = %dir.display(),
                    map = name,
                    "flows of another map layout cannot be converted: connections to services may break"
                );
                continue;
            };
            let mut flows = 0_usize;
            for key in keys(&theirs, &info)? {
                let converted = conversion.key(&key);
                // One that is there has been noted since, or copied before.
                if sys::get(&ours, &converted, to.value_size)?.is_none()
                    && let Some(value) = sys::get(&theirs, &key, from.value_size)?
                {
                    sys::set(&ours, &converted, &conversion.value(&value))?;
                    flows += 1;
                }
            }
            step("flows copied");
            tracing::info!(from = %dir.display(), map = name, flows, "flows of another map layout converted");
        }
    }
    Ok(())
}

fn keys(map: &std::os::fd::OwnedFd, info: &MapInfo) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    // A key that vanishes meanwhile starts the list anew: not for ever.
    while keys.len() < 2 * info.max_entries {
        match sys::next_key(map, keys.last().map(Vec::as_slice), info.key_size)? {
            Some(key) => keys.push(key),
            None => break,
        }
    }
    Ok(keys)
}

fn info_of(ebpf: &Ebpf, name: &str) -> anyhow::Result<MapInfo> {
    sys::map_info(map_data(ebpf, name)?.fd())
}

#[cfg(test)]
mod tests {
    use nix::{
        mount::{MsFlags, mount, umount},
        sched::{CloneFlags, unshare},
    };

    use super::*;

    #[test]
    fn the_kernel_tells_a_maps_shape_and_a_map_is_of_its_own() {
        let ebpf = load(None, &Options::new("/nowhere".into()), &Globals::default()).unwrap();
        let shape = |name| Shape::of(&info_of(&ebpf, name).unwrap()).unwrap();
        let names: Vec<_> = shape("stack_flows4").key_members().map(str::to_owned).collect();
        assert_eq!(names, ["source", "destination", "ports", "protocol", "reserved"]);
        assert_eq!(shape("stack_flows4"), shape("stack_flows4"));
        assert_ne!(shape("stack_flows4"), shape("stack_flows6"));
        assert!(shape("stack_flows4").to(&shape("stack_flows6")).is_none());
    }

    /// Runs on a BPF file system of its own, which ends with the thread's mount namespace.
    fn on_a_bpf_file_system(check: impl FnOnce(&Path) + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
            let dir = tempfile::tempdir().unwrap();
            mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
            check(dir.path());
            umount(dir.path()).unwrap();
        });
        thread.join().unwrap();
    }

    #[test]
    fn flows_are_shared_unless_the_former_layout_has_no_filter() {
        on_a_bpf_file_system(|dir| {
            let [former, first, second] = ["former", "first", "second"].map(|name| dir.join(name));
            [&former, &first, &second].into_iter().for_each(|dir| fs_err::create_dir(dir).unwrap());
            let options = Options::new(dir.to_owned());
            drop(load(Some(&former), &options, &Globals::default()).unwrap());
            assert!(!share(&first, std::slice::from_ref(&former), &options).unwrap());
            for name in SHARED {
                let id = |dir: &Path| sys::map_info(sys::open(&dir.join(name)).unwrap().unwrap()).unwrap().id;
                assert_eq!(id(&first), id(&former), "{name}");
            }
            fs_err::remove_file(former.join(FILTER)).unwrap();
            assert!(share(&second, &[former], &options).unwrap());
        });
    }
}
