//! Programs at a device's clsact hooks, which no link stands for.

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcOption};

use super::Netlink;
use super::error::to_io;

impl Netlink {
    /// The numbers of the BPF programs that filters at ingress or egress of a device run. None where the device is gone
    /// or has no clsact qdisc.
    pub async fn classifiers(&self, ifindex: u32, ingress: bool) -> anyhow::Result<Vec<u32>> {
        let _one_at_a_time = self.dumping.lock().await;
        let request = self.handle.traffic_filter(i32::try_from(ifindex)?).get();
        let request = if ingress { request.ingress() } else { request.egress() };
        let messages = match request.execute().try_collect::<Vec<_>>().await.map_err(to_io) {
            Ok(messages) => messages,
            Err(error)
                if [Errno::EINVAL, Errno::ENODEV, Errno::ENOENT]
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(*errno as i32)) =>
            {
                Vec::new()
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("listing the filters of the device with index {ifindex}"));
            }
        };
        let attributes = messages.iter().flat_map(|message| &message.attributes);
        let options = attributes.flat_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.as_slice(),
            _ => &[],
        });
        Ok(options
            .filter_map(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                _ => None,
            })
            .collect())
    }
}
