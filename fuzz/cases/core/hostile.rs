//! What an honest core does not say: then only memory and the end of the session count.

use bytes::{Bytes, BytesMut};
use httvps::frame::{
    Encoding, Features, Frame, HelloOk, Notice, SessionCode, StreamCode, StreamId, Target, binary, json,
};

use super::world::{Item, World};

#[derive(Clone, Copy)]
pub(super) struct Forged {
    pub(super) id: usize,
    pub(super) len: usize,
}

impl Forged {
    fn frame(self, kind: usize, world: &World) -> Frame {
        let id = StreamId(self.id as u32);
        let payload = || Bytes::from(vec![b'x'; self.len.min(binary::MAX_DATA)]);
        let target = Some(Target::Name("forged.test".to_owned(), 1));
        let message = "x".repeat(self.len.min(100));
        match kind % 18 {
            0 => Frame::Data { id, payload: payload(), fin: false },
            1 => Frame::Data { id, payload: payload(), fin: true },
            2 => Frame::Window { id, consumed: 0, limit: u64::MAX },
            3 => Frame::Window { id, consumed: u64::MAX, limit: self.len as u64 },
            4 => Frame::Reset { id, code: StreamCode::Cancelled },
            5 => Frame::Close { id, half: false },
            6 => Frame::Close { id, half: true },
            7 => Frame::Open { id, target, payload: Bytes::from(message), fin: self.len > 100, udp: false },
            8 => Frame::Open { id, target, payload: Bytes::new(), fin: false, udp: true },
            9 => Frame::Ping([0; 8]),
            10 => Frame::Pong([0, 0, 0, 0, 0, 0, 0, 1]),
            11 => Frame::GoAway { last: id, reconnect_in_ms: u32::MAX, code: SessionCode::GoingAway },
            12 => Frame::Padding(self.len.min(binary::MAX_DATA) as u16),
            13 => Frame::Error { code: SessionCode::Internal, message, retry_after_ms: None },
            14 => Frame::StreamError { id, code: StreamCode::Blocked, message },
            15 => Frame::Hello(Box::new(world.setup.hello())),
            16 => Frame::HelloOk(HelloOk::default()),
            _ => Frame::Notice(Notice::Unknown),
        }
    }
}

impl World {
    pub(super) fn forge(&mut self, end: usize, kind: usize, forged: Forged) {
        let frame = forged.frame(kind, self);
        let mut message = BytesMut::new();
        match self.setup.encoding {
            Encoding::V1 => {
                let mut text = Vec::new();
                json::encode(&frame, Features::ALL, &mut text);
                message.extend_from_slice(&text);
            }
            Encoding::V2 => binary::encode(&frame, &mut message),
        }
        self.inject(end, message.to_vec());
    }

    pub(super) fn inject(&mut self, end: usize, message: Vec<u8>) {
        if self.setup.hostile && !self.ends[end].parted {
            self.tainted = true;
            self.ends[end].wire.push_back(Item::Message(message.into()));
        }
    }
}
