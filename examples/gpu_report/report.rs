//! Rows: how they are printed, stored and judged.

use crate::{
    args::FAMILIES,
    floors::{FLOORS, Floor},
    isa::Loop,
    radv::Stats,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// A shader on a family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What the compiler tells.
    #[serde(flatten)]
    pub(crate) stats: Stats,
    /// The inner loops.
    pub(crate) loops: Vec<Loop>,
}

/// `FAMILY kernel/variant DEFINES` to row.
pub(crate) type Rows = BTreeMap<String, Row>;

/// Rows and who compiled them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Mesa's version: another one counts other instructions.
    pub(crate) driver: String,
    /// The rows.
    pub(crate) rows: Rows,
}

/// More instructions than this times the baseline's need a reason.
const GROWTH: f64 = 1.05;

/// The table, family by family; a further inner loop has its own line.
pub(crate) fn print(rows: &Rows, families: &[&str]) {
    for family in families {
        println!(
            "{family}\n{:>5}{:>5}{:>8}{:>8}{:>7}{:>5}{:>7}  {:>6}{:>6}{:>5}{:>5}{:>7}{:>7}  shader",
            "VGPR", "SGPR", "spills", "scratch", "LDS", "occ", "instr", "FMA", "other", "LDS", "mem", "scalar", "share"
        );
        for (key, row) in rows {
            let Some(name) = key.strip_prefix(&format!("{family} ")) else { continue };
            let s = &row.stats;
            print!("{:>5}{:>5}{:>8}{:>8}", s.vgpr, s.sgpr, s.spilled_vgpr + s.spilled_sgpr, s.scratch);
            print!("{:>7}{:>5}{:>7}", s.lds, s.occupancy, s.instructions);
            match row.loops.first() {
                Some(l) => println!("  {}  {name}", columns(l)),
                None => println!("{:>38}  {name}", ""),
            }
            for l in row.loops.iter().skip(1) {
                println!("{:>47}{}", "", columns(l));
            }
        }
        println!();
    }
}

fn columns(l: &Loop) -> String {
    format!("{:>6}{:>6}{:>5}{:>5}{:>7}{:>7.3}", l.fma, l.valu, l.lds, l.memory, l.scalar, l.share())
}

/// Writes rows one a line, sorted, so that a change reads well.
///
/// # Errors
/// What the file system reports.
pub(crate) fn write(report: &Report, path: &Path) -> Result<(), String> {
    let text = || {
        let line = |(key, row)| Ok(format!("{}: {}", serde_json::to_string(key)?, serde_json::to_string::<Row>(row)?));
        let lines = report.rows.iter().map(line).collect::<Result<Vec<String>, serde_json::Error>>()?;
        let driver = serde_json::to_string(&report.driver)?;
        Ok(format!("{{\"driver\": {driver}, \"rows\": {{\n{}\n}}}}\n", lines.join(",\n")))
    };
    let text = text().map_err(|e: serde_json::Error| e.to_string())?;
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads a report.
///
/// # Errors
/// What the file system or the parser reports.
pub(crate) fn read(path: &Path) -> Result<Report, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// What is wrong with a report, one line each. `whole`: rows that only the baseline has are missed, too. Instructions are
/// compared if one driver made both.
pub(crate) fn failures(report: &Report, baseline: &Report, whole: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (key, row) in &report.rows {
        let mut fail = |what: String| found.push(format!("{key}: {what}"));
        let s = &row.stats;
        if s.spilled_vgpr + s.spilled_sgpr > 0 {
            fail(format!("spills {} vector and {} scalar registers", s.spilled_vgpr, s.spilled_sgpr));
        }
        if s.scratch > 0 {
            fail(format!("uses {} bytes of scratch", s.scratch));
        }
        for floor in FLOORS.iter().filter(|f| f.is_for(key)) {
            below(floor, key, row).into_iter().for_each(&mut fail);
        }
        match baseline.rows.get(key).map(|b| b.stats.instructions) {
            Some(was) if report.driver == baseline.driver && s.instructions as f64 > was as f64 * GROWTH => {
                fail(format!("{} instructions, the baseline has {was}", s.instructions));
            }
            Some(_) => {}
            None => fail("not in the baseline; add it with --bless".into()),
        }
    }
    if whole {
        let gone = baseline.rows.keys().filter(|k| !report.rows.contains_key(*k));
        found.extend(gone.map(|k| format!("{k}: only in the baseline; drop it with --bless")));
    }
    found
}

fn below(floor: &Floor, key: &str, row: &Row) -> Vec<String> {
    let family = FAMILIES.iter().position(|f| key.starts_with(f));
    let occupancy = family.map_or(0, |i| floor.occupancy[i]);
    let mut found = Vec::new();
    if row.stats.occupancy < occupancy {
        found.push(format!("occupancy {}, the floor is {occupancy}", row.stats.occupancy));
    }
    let share = floor.share;
    if row.loops.len() < floor.loops {
        found.push(format!("{} inner loops, {} expected", row.loops.len(), floor.loops));
    }
    for l in row.loops.iter().filter(|l| l.share() < share) {
        found.push(format!("an inner loop has {:.3} of multiply-adds, the floor is {share:.2}", l.share()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(occupancy: u64, fma: u32) -> Row {
        let stats = Stats { occupancy, instructions: 1000, ..Stats::default() };
        Row { stats, loops: vec![Loop { fma, valu: 0, lds: 100 - fma, memory: 0, scalar: 9 }] }
    }

    const KEY: &str = "navi21 matmul/tile128 VEC_K VEC_N";

    fn report(row: Option<Row>) -> Report {
        Report { driver: "Mesa 1".into(), rows: row.map(|r| (KEY.to_string(), r)).into_iter().collect() }
    }

    fn judge(row: Row, baseline: Option<Row>) -> Vec<String> {
        failures(&report(Some(row)), &report(baseline), true)
    }

    #[test]
    fn each_failure_is_one_clear_line() {
        let good = || row(10, 95);
        assert_eq!(judge(good(), Some(good())), Vec::<String>::new());
        let one = |row: Row, message: &str| {
            let lines = judge(row, Some(good()));
            assert!(lines.len() == 1 && lines[0].starts_with(KEY) && lines[0].contains(message), "{lines:?}");
        };
        one(Row { stats: Stats { spilled_vgpr: 3, ..good().stats }, ..good() }, "spills 3 vector");
        one(Row { stats: Stats { spilled_sgpr: 2, ..good().stats }, ..good() }, "2 scalar");
        one(Row { stats: Stats { scratch: 64, ..good().stats }, ..good() }, "64 bytes of scratch");
        one(row(9, 95), "occupancy 9, the floor is 10");
        one(row(10, 60), "has 0.600 of multiply-adds");
        one(Row { loops: Vec::new(), ..good() }, "0 inner loops, 1 expected");
        one(Row { stats: Stats { instructions: 1051, ..good().stats }, ..good() }, "1051 instructions");
        assert_eq!(judge(Row { stats: Stats { instructions: 1049, ..good().stats }, ..good() }, Some(good())), [""; 0]);
        assert!(judge(good(), None)[0].contains("not in the baseline"));
        let gone = failures(&report(None), &report(Some(good())), true);
        assert!(gone[0].contains("only in the baseline"));
    }

    #[test]
    fn another_driver_counts_other_instructions() {
        let more = Row { stats: Stats { instructions: 2000, spilled_vgpr: 1, ..row(10, 95).stats }, ..row(10, 95) };
        let new = Report { driver: "Mesa 2".into(), ..report(Some(more)) };
        let lines = failures(&new, &report(Some(row(10, 95))), true);
        assert!(lines.len() == 1 && lines[0].contains("spills"), "{lines:?}");
    }

    #[test]
    fn what_is_written_is_read() {
        let path = std::env::temp_dir().join(format!("gpu_report_{}.json", std::process::id()));
        let mut written = report(Some(row(10, 95)));
        written.rows.insert("vega10 rope/line".into(), row(8, 50));
        write(&written, &path).unwrap();
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        let back = read(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(back.unwrap(), written);
        assert_eq!(lines, 4);
    }
}
