//! The binary `turnpike`: see the library's `cli`.

fn main() -> std::process::ExitCode {
    engine::cli::main()
}
