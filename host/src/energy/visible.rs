//! Which of a machine's GPUs a program sees as `cuda:N`, by the rules of `CUDA_VISIBLE_DEVICES`.
//!
//! Source: CUDA C++ Programming Guide, "CUDA Environment Variables".

/// A GPU in the order of the PCI bus, which is NVML's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub uuid: String,
    pub name: String,
}

/// The place in `gpus` of `cuda:<ordinal>`; `visible` and `order` are the values of `CUDA_VISIBLE_DEVICES` and
/// `CUDA_DEVICE_ORDER`.
///
/// # Errors
/// Why it cannot be told.
pub fn resolve(
    ordinal: usize,
    visible: Option<&str>,
    order: Option<&str>,
    gpus: &[Gpu],
) -> Result<usize, String> {
    let places = match visible {
        None => all(order, gpus)?,
        Some(list) => listed(list, order, gpus)?,
    };
    places.get(ordinal).copied().ok_or_else(|| {
        let list = visible.map_or_else(String::new, |list| format!(" (CUDA_VISIBLE_DEVICES={list})"));
        format!(
            "cuda:{ordinal} is none of the {} GPUs that are visible{list}",
            places.len()
        )
    })
}

/// CUDA's default order is that of speed, which is the bus' order only among equal GPUs.
fn all(order: Option<&str>, gpus: &[Gpu]) -> Result<Vec<usize>, String> {
    let equal = gpus.windows(2).all(|pair| pair[0].name == pair[1].name);
    if equal || order == Some("PCI_BUS_ID") {
        return Ok((0..gpus.len()).collect());
    }
    Err(
        "this machine's GPUs differ, and CUDA numbers them by speed: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name one by \
         its UUID in CUDA_VISIBLE_DEVICES"
            .to_owned(),
    )
}

/// Devices up to the first entry that is none, as CUDA reads the list.
fn listed(list: &str, order: Option<&str>, gpus: &[Gpu]) -> Result<Vec<usize>, String> {
    let mut places = Vec::new();
    for entry in list.split(',').map(str::trim) {
        if entry.starts_with("MIG") {
            return Err(format!(
                "CUDA_VISIBLE_DEVICES names the MIG instance {entry}: energy is counted for whole GPUs only"
            ));
        }
        let place = if entry.starts_with("GPU-") {
            // The beginning of a UUID is enough where it is unique.
            let mut matches = (0..gpus.len()).filter(|&place| gpus[place].uuid.starts_with(entry));
            matches.next().filter(|_| matches.next().is_none())
        } else {
            match entry.parse::<usize>().ok().filter(|&index| index < gpus.len()) {
                Some(index) => Some(all(order, gpus)?[index]),
                None => None,
            }
        };
        let Some(place) = place else {
            break;
        };
        if places.contains(&place) {
            return Err(format!(
                "CUDA_VISIBLE_DEVICES={list} names a GPU twice: CUDA shows none"
            ));
        }
        places.push(place);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(names: [&str; 3]) -> Vec<Gpu> {
        ["GPU-aa11", "GPU-aa22", "GPU-bb33"]
            .into_iter()
            .zip(names)
            .map(|(uuid, name)| Gpu {
                uuid: uuid.to_owned(),
                name: name.to_owned(),
            })
            .collect()
    }

    #[test]
    fn indices_uuids_and_their_beginnings_are_places() {
        let gpus = gpus(["H200"; 3]);
        let place = |ordinal, visible: Option<&str>| resolve(ordinal, visible, None, &gpus);
        assert_eq!(place(2, None), Ok(2));
        assert_eq!(place(0, Some("2,0")), Ok(2));
        assert_eq!(place(1, Some("2, 0")), Ok(0));
        assert_eq!(place(0, Some("GPU-bb33")), Ok(2));
        assert_eq!(place(1, Some("GPU-b,GPU-aa2")), Ok(1));
    }

    #[test]
    fn the_list_ends_at_the_first_entry_that_is_no_device() {
        let gpus = gpus(["H200"; 3]);
        for list in ["1,-1,0", "1,7,0", "1,GPU-aa,0", "1,,0", "1,x"] {
            assert_eq!(resolve(0, Some(list), None, &gpus), Ok(1), "{list}");
            let error = resolve(1, Some(list), None, &gpus).unwrap_err();
            assert!(error.contains("none of the 1 GPUs"), "{list}: {error}");
        }
        assert!(
            resolve(0, Some(""), None, &gpus).is_err(),
            "an empty list hides all"
        );
    }

    #[test]
    fn what_cannot_be_told_is_refused_with_a_reason() {
        let equal = gpus(["H200"; 3]);
        let refused = |visible| resolve(0, Some(visible), None, &equal).unwrap_err();
        assert!(refused("MIG-1234").contains("whole GPUs only"));
        assert!(refused("1,1").contains("twice"));
        let mixed = gpus(["H200", "A100", "H200"]);
        assert!(
            resolve(0, None, None, &mixed)
                .unwrap_err()
                .contains("CUDA_DEVICE_ORDER=PCI_BUS_ID")
        );
        assert_eq!(resolve(1, None, Some("PCI_BUS_ID"), &mixed), Ok(1));
        assert_eq!(resolve(0, Some("GPU-bb"), None, &mixed), Ok(2));
    }
}
