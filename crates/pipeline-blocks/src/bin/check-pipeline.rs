//! The child process of [`freehold_pipeline_blocks::isolation`], for this crate's tests; `freehold`
//! has it as a hidden command.

fn main() -> std::io::Result<()> {
    freehold_pipeline_blocks::isolation::serve(std::io::stdin(), std::io::stdout())
}
