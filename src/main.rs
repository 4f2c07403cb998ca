//! The `impasto` command: see `impasto --help` and the README.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
