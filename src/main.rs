//! The program. What it does is in the library's `cli`.

fn main() -> std::process::ExitCode {
    infinite_scheduler::cli::main()
}
