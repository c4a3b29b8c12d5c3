//! Tests the second seam: an endpoint whose small messages, arrivals and sleep use its fast path. Run through it, every law of the first seam tests
//! the second. The additional promises of [`FastPath`] are asserted at each call.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use charm4rs_transport_core::fast_path::{Arrival, FastPath};
use charm4rs_transport_core::{
    Caps, Doorbell, Endpoint, EndpointBuilder, Event, Imm, OpId, Pe, PostError, Posted, RegBuf, RemoteKey,
    TransportError, Window,
};

/// A builder for a [`Group`](super::Group): `open` opens an endpoint on its PE's thread, and the laws use it through its fast path.
pub fn builder<P, Open>(open: Open) -> Box<dyn EndpointBuilder>
where
    P: FastPath + 'static,
    Open: FnOnce(&Doorbell) -> Result<P, TransportError> + Send + 'static,
{
    struct Builder<Open>(Open);
    impl<P, Open> EndpointBuilder for Builder<Open>
    where
        P: FastPath + 'static,
        Open: FnOnce(&Doorbell) -> Result<P, TransportError> + Send,
    {
        fn build(self: Box<Self>, doorbell: &Doorbell) -> Result<Box<dyn Endpoint>, TransportError> {
            Ok(Box::new(ByFastPath((self.0)(doorbell)?)))
        }
    }
    Box::new(Builder(open))
}

/// See the module's text.
struct ByFastPath<P>(P);

impl<P: FastPath> fmt::Debug for ByFastPath<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<P: FastPath> Endpoint for ByFastPath<P> {
    fn pe(&self) -> Pe {
        self.0.pe()
    }

    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn alloc(&mut self, len: usize) -> Option<RegBuf> {
        self.0.alloc(len)
    }

    fn inject(
        &mut self,
        to: Pe,
        imm: Imm,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<(), PostError<()>> {
        if len <= self.0.caps().inject_max {
            let mut calls = 0;
            let counted = |body: &mut [MaybeUninit<u8>]| {
                assert_eq!(body.len(), len, "a body has the requested length");
                calls += 1;
                fill(body);
            };
            let sent = self.0.try_send(to, imm, len, counted).is_ok();
            assert_eq!(calls, usize::from(sent), "a body is filled once if it is sent, and never if it is refused");
            if sent {
                return Ok(());
            }
        }
        self.0.inject(to, imm, len, fill)
    }

    fn send(&mut self, to: Pe, imm: Imm, buf: RegBuf, op: OpId) -> Result<Posted, PostError<RegBuf>> {
        self.0.send(to, imm, buf, op)
    }

    fn expose(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        self.0.expose(buf)
    }

    fn expose_for_long(&mut self, buf: RegBuf) -> Result<Window, (TransportError, RegBuf)> {
        self.0.expose_for_long(buf)
    }

    fn unexpose(&mut self, window: Window) -> RegBuf {
        self.0.unexpose(window)
    }

    fn put(
        &mut self,
        to: Pe,
        src: RegBuf,
        dst: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        self.0.put(to, src, dst, offset, imm, op)
    }

    fn get(
        &mut self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
        op: OpId,
    ) -> Result<Posted, PostError<RegBuf>> {
        self.0.get(from, src, offset, dst, op)
    }

    fn progress(&mut self, out: &mut Vec<Event>, max: usize) -> Result<usize, TransportError> {
        let before = out.len();
        let mut taken = 0;
        let received = self.0.receive(max, |arrival| {
            taken += 1;
            out.push(match arrival {
                Arrival::Message(from, imm, msg) => Event::Recv { from, imm, msg },
                Arrival::Put(from, imm) => Event::PutArrived { from, imm },
            });
        })?;
        assert_eq!(received, taken, "each arrival is counted");
        assert!(taken <= max, "{taken} arrivals of at most {max}");
        let mut tended = 0;
        if self.0.is_busy() {
            tended = self.0.tend(out, max - taken)?;
        }
        assert_eq!(out.len() - before, taken + tended, "each event is counted");
        Ok(taken + tended)
    }

    fn arm(&mut self) -> bool {
        self.0.announce();
        self.0.fences().is_none_or(|fences| fences.heavy()) & self.0.may_sleep()
    }

    fn has_closed(&mut self, peer: Pe) -> bool {
        self.0.has_closed(peer)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.wait_fd()
    }

    fn copies(&self) -> u64 {
        self.0.copies()
    }

    fn close(self: Box<Self>) -> Result<(), TransportError> {
        Box::new(self.0).close()
    }
}
