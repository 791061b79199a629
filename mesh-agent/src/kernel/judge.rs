//! The decision as the kernel makes it, asked from user space with flows that need no socket and no network: for tests and measurements.

use super::{Error, Kernel, Refused, load};
use aya::Ebpf;
use aya::programs::{Program, TestRun, TestRunOptions};
use mesh_common::abi::Question;

const NAME: &str = "judge";

/// The loaded program.
pub struct Judge {
    object: Ebpf,
}

impl Kernel {
    /// Loads the program, over the tables in force.
    ///
    /// # Errors
    /// If it does not load.
    pub fn judge(&self) -> Result<Judge, Error> {
        let mut object = load(&self.pins, self.log, None)?;
        let Some(Program::SchedClassifier(program)) = object.program_mut(NAME) else { return Err(Error::NoObject) };
        program.load().map_err(|error| Error::Program { name: NAME, refused: Refused::from(error) })?;
        Ok(Judge { object })
    }
}

impl Judge {
    /// The code of the verdict.
    ///
    /// # Errors
    /// If the kernel does not run it.
    pub fn ask(&self, question: &Question) -> Result<u32, Error> {
        let Some(Program::SchedClassifier(program)) = self.object.program(NAME) else { return Err(Error::NoObject) };
        let packet = question.packet();
        let run = program.test_run(TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() });
        run.map(|run| run.return_value).map_err(|error| Error::Program { name: NAME, refused: Refused::from(error) })
    }
}
