//! `impasto bench list`.

use super::{
    super::{
        failure::{Outcome, print_json, print_line},
        global::Global,
    },
    shapes::Filter,
};
use impasto::{kernel::Class, kernels::ALL};

/// List kernels with their variants, or the calls of a set of shapes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  impasto bench list
  impasto bench list --calls --shapes sam2-tiny -p matmul
  impasto bench list --shapes sam2-tiny --json > shapes.json")]
pub(super) struct Args {
    /// List the calls of the set: what `run` measures, with how often the model makes each
    #[arg(long)]
    calls: bool,
    #[command(flatten)]
    filter: Filter,
    /// Print the calls as JSON on stdout: a file for --shapes
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    if args.json {
        return print_json(&args.filter.works(global)?);
    }
    if args.calls {
        for w in args.filter.works(global)? {
            print_line(&format!("{:4} x  {:60} {}", w.count, w.name(), w.scope))?;
        }
        return Ok(());
    }
    for entry in ALL {
        print_line(entry.kernel.name)?;
        for v in entry.kernel.variants {
            let class = if v.class == Class::Gpu { "gpu" } else { "software" };
            let subgroup = v.subgroup.map_or_else(String::new, |n| format!("subgroups of {n} "));
            let defines: Vec<String> = v.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
            print_line(&format!("  {:16} {class:9} {subgroup}{}", v.name, defines.join(" ")))?;
        }
    }
    Ok(())
}
