//! The decision for tests that ask it a million times: the kernel runs no socket hook by `BPF_PROG_TEST_RUN`, and tc programs it does. Never
//! attached, and loaded by tests only.

use crate::maps::{CONFIG, KernelTables};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use mesh_common::abi::Question;
use mesh_common::decide::l4::{self, Flow};

/// The answer to what cannot be read: no code.
const NONE: i32 = 0;

/// The packet is a [`Question`], the return value the verdict's code.
#[classifier]
pub fn judge(ctx: TcContext) -> i32 {
    let Ok(question) = ctx.load::<Question>(Question::OFFSET) else { return NONE };
    let Some(config) = CONFIG.get(0) else { return NONE };
    let (dest, brokered) = (question.dest, question.brokered == 1);
    // Two calls: the verifier would not believe that a pod chosen by a number is there.
    let verdict = if question.enrolled == 1 {
        l4::decide(&Flow { dest, pod: Some(&question.pod), brokered }, config, &KernelTables)
    } else {
        l4::decide(&Flow { dest, pod: None, brokered }, config, &KernelTables)
    };
    i32::from(verdict.code())
}
