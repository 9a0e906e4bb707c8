//! A netlink socket whose answers the asking thread reads itself, one message after the other: there is no hand-over
//! between threads, and the answer to a dump is never in memory as a whole.

use std::io;

use rtnetlink::packet_core::{NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Netlink messages begin at multiples of this.
const ALIGNMENT: usize = 4;
/// What the kernel puts into one datagram at most, but for a device with everything about it, which is smaller still.
const DATAGRAM: usize = 32 << 10;

/// A socket, bound to the network namespace that the thread was in when it opened it.
#[derive(Debug)]
pub(super) struct Exchange {
    socket: Socket,
    sequence: u32,
}

/// What came back for one message.
pub(super) enum Answer {
    /// Done, or refused.
    Ended(io::Result<()>),
    /// What was asked for; of a dump, a part of it.
    Message(Message),
}

impl Exchange {
    /// In the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // A refusal need not repeat the request.
        socket.set_cap_ack(true)?;
        // The kernel applies filters, instead of ignoring them.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends messages together and hands on what comes back, with the number of the message that it is for, until the
    /// last one has its answer. That one must be answered: a question, or with `NLM_F_ACK`.
    pub(super) fn exchange(
        &mut self,
        messages: Vec<(Message, u16)>,
        mut take: impl FnMut(usize, Answer),
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let request = self.serialize(messages);
        uninterrupted(|| self.socket.send_to(&request, &SocketAddr::new(0, 0), 0))?;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        let mut ended = false;
        while !ended {
            uninterrupted(|| {
                datagram.clear();
                self.socket.recv(&mut datagram, 0)
            })?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
                let header = message.header;
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
                let (answer, is_part) = match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        (Answer::Ended(Err(error.to_io())), false)
                    }
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        (Answer::Ended(Err(io::Error::from_raw_os_error(done.code.saturating_neg()))), false)
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => (Answer::Ended(Ok(())), false),
                    NetlinkPayload::InnerMessage(message) => {
                        (Answer::Message(message), header.flags & NLM_F_MULTIPART != 0)
                    }
                    _ => continue,
                };
                ended |= header.sequence_number == self.sequence && !is_part;
                take(
                    usize::try_from(header.sequence_number.wrapping_sub(first)).unwrap_or(usize::MAX),
                    answer,
                );
            }
        }
        Ok(())
    }

    fn serialize(&mut self, messages: Vec<(Message, u16)>) -> Vec<u8> {
        let mut request = Vec::new();
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | flags;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let begin = request.len();
            request.resize(begin + message.buffer_len().next_multiple_of(ALIGNMENT), 0);
            message.serialize(request.get_mut(begin..).unwrap_or_default());
        }
        request
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
