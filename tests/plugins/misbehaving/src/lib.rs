//! A plugin that does on request what a plugin must not do.
//!
//! The environment variable `QBENCH_TEST_FAULT` makes it fail while it is loaded (`exit`, `abort`, `hang`) or listed
//! (`panic`). The option `fault` of its scheme `misbehaving` makes it fail while it quantises (`panic`, `error`,
//! `memory`, `segv`, `abort`, `exit`, `hang`, `allocate`, or `overrun`: write past a buffer), plan (`sizes`: lie about the
//! shape) or log a `warning`; without it, the scheme stores weights as they are. Its default is the variable
//! `QBENCH_TEST_QUANTIZE_FAULT`.

use std::{env, process, thread, time::Duration};

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo, export_plugin,
    layout::Dense,
    log::{self, Level},
};

struct Misbehaving {
    fault: String,
}

impl Misbehaving {
    fn open(options: &Options) -> Result<Self> {
        match env::var("QBENCH_TEST_FAULT").as_deref() {
            Ok("exit") => process::exit(0),
            Ok("abort") => process::abort(),
            Ok("hang") => thread::sleep(Duration::from_hours(1)),
            Ok("panic") => panic!("the test asked for a panic"),
            _ => {}
        }
        let mut options = options.clone();
        let fault = options.take(
            "fault",
            env::var("QBENCH_TEST_QUANTIZE_FAULT").unwrap_or_default(),
        )?;
        options.finish(&["fault"])?;
        Ok(Self { fault })
    }
}

impl QuantScheme for Misbehaving {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "misbehaving".to_owned(),
            summary: "fails as it is told".to_owned(),
            options: vec![("fault".to_owned(), String::new())],
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        Ok(Layout::Dense(Dense {
            rows: if self.fault == "sizes" { rows / 2 } else { rows },
            cols,
            dtype: source,
        }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        _layout: &Layout,
        buffers: &mut [&mut [u8]],
        _context: CallContext,
    ) -> Result<()> {
        match self.fault.as_str() {
            "panic" => panic!("the test asked for a panic"),
            "warning" => log::log(Level::Warning, "misbehaving", "the test asked for a warning"),
            "error" => return Err(Error::Unsupported("the test asked for an error".to_owned())),
            "memory" => return Err(Error::OutOfMemory("the test asked for 1 EB".to_owned())),
            // SAFETY: none; the test wants the process to die of it.
            "segv" => unsafe { std::ptr::write_volatile(8 as *mut u8, 0) },
            "abort" => process::abort(),
            "exit" => process::exit(0),
            "hang" => thread::sleep(Duration::from_hours(1)),
            "overrun" => {
                let end = buffers[0].as_mut_ptr_range().end;
                // SAFETY: none; the test wants to see it found.
                unsafe { end.write_volatile(1) };
            }
            // Written to, so that the memory is really taken.
            "allocate" => drop(std::hint::black_box(vec![1_u8; 3_000_000_000])),
            _ => {}
        }
        for row in 0..source.rows() {
            let bytes = source.row(row);
            buffers[0][row * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }
}

export_plugin!(schemes: [Misbehaving::open]);
