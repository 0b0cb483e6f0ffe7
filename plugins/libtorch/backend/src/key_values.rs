//! Keys and values of earlier passes of one layer.

use qbench_sdk::Result;
use tch::Tensor;

use crate::error::Named;

/// Positions that the room for a cache grows by at least.
const STEP: usize = 256;

/// Two matrices, `[batch, capacity, width]` each, filled up to the pass's past.
#[derive(Default)]
pub(crate) struct KeyValues {
    room: Option<[Tensor; 2]>,
}

impl KeyValues {
    /// Appends `[batch, length, width]` after `past` positions and gives all keys and all values,
    /// `[batch, past + length, width]`.
    pub(crate) fn append(&mut self, new: [&Tensor; 2], past: usize) -> Result<[Tensor; 2]> {
        let [batch, length, width] = [0, 1, 2].map(|dimension: usize| new[0].size()[dimension]);
        let needed = past + length as usize;
        let capacity = self.room.as_ref().map_or(0, |room| room[0].size()[1] as usize);
        let part =
            |tensor: &Tensor, first: usize, count: i64| tensor.f_narrow(1, first as i64, count).op("narrow");
        let room = match self.room.take() {
            Some(room) if needed <= capacity => room,
            before => {
                let capacity = needed.max(2 * capacity).next_multiple_of(STEP) as i64;
                let grow = |index: usize| -> Result<Tensor> {
                    let options = (new[index].kind(), new[index].device());
                    let room = Tensor::f_empty([batch, capacity, width], options).op("empty")?;
                    if let Some(before) = before.as_ref().filter(|_| past > 0) {
                        part(&room, 0, past as i64)?
                            .f_copy_(&part(&before[index], 0, past as i64)?)
                            .op("copy_")?;
                    }
                    Ok(room)
                };
                [grow(0)?, grow(1)?]
            }
        };
        let mut all = [0, 1].map(|index: usize| room[index].shallow_clone());
        for (all, new) in all.iter_mut().zip(new) {
            part(all, past, length)?.f_copy_(new).op("copy_")?;
            *all = part(all, 0, needed as i64)?;
        }
        self.room = Some(room);
        Ok(all)
    }
}
