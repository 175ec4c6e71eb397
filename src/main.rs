//! The program. What it does is in the library's `cli`.

use mimalloc::MiMalloc;

/// Records and jobs are many short strings, which are freed on another thread than the one that
/// made them: the system's allocator took a third of the time of a record.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    infinite_scheduler::cli::main()
}
