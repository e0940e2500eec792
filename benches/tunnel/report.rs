use serde_json::json;

pub(crate) const HTTVPS: &str = "httvps";
pub(crate) const SING_BOX: &str = "sing-box";
pub(crate) const SING_BOX_MUX: &str = "sing-box-mux";
pub(crate) const SS_LOCAL: &str = "ss-local";
pub(crate) const FLOOR: &str = "floor";
pub(crate) const H2WS: &str = "h2ws";
pub(crate) const H2: &str = "h2";
const COLUMNS: [&str; 7] = [HTTVPS, H2WS, H2, SING_BOX, SING_BOX_MUX, SS_LOCAL, FLOOR];

#[derive(Clone, Copy)]
pub(crate) struct Goal {
    at_least: Option<f64>,
    at_most: Option<f64>,
}

impl Goal {
    pub(crate) const NONE: Self = Self { at_least: None, at_most: None };

    pub(crate) fn at_least(limit: f64) -> Self {
        Self { at_least: Some(limit), at_most: None }
    }

    pub(crate) fn at_most(limit: f64) -> Self {
        Self { at_least: None, at_most: Some(limit) }
    }

    pub(crate) fn within(least: f64, most: f64) -> Self {
        Self { at_least: Some(least), at_most: Some(most) }
    }

    fn is_met(self, value: f64) -> bool {
        self.at_least.is_none_or(|least| value >= least) && self.at_most.is_none_or(|most| value <= most)
    }

    fn text(self, value: f64) -> String {
        let least = self.at_least.map(|least| format!(">= {}", short(least)));
        let most = self.at_most.map(|most| format!("<= {}", short(most)));
        let limits: Vec<String> = [least, most].into_iter().flatten().collect();
        if limits.is_empty() {
            return String::new();
        }
        format!("{}: {}", limits.join(", "), if self.is_met(value) { "met" } else { "missed" })
    }
}

struct Row {
    figure: String,
    unit: &'static str,
    values: Vec<(&'static str, f64)>,
    goal: Goal,
}

impl Row {
    fn value(&self, subject: &str) -> Option<f64> {
        self.values.iter().find(|(name, _)| *name == subject).map(|(_, value)| *value)
    }
}

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, figure: &str, subject: &'static str, value: f64, unit: &'static str, goal: Goal) {
        let goal = if subject == HTTVPS { goal } else { Goal::NONE };
        let mut line = json!({ "figure": figure, "subject": subject, "value": rounded(value), "unit": unit });
        if let Some(least) = goal.at_least {
            line["at_least"] = json!(rounded(least));
        }
        if let Some(most) = goal.at_most {
            line["at_most"] = json!(rounded(most));
        }
        println!("{line}");
        let known = self.rows.iter().position(|row| row.figure == figure);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row { figure: figure.to_owned(), unit, values: Vec::new(), goal: Goal::NONE });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        row.values.push((subject, value));
        if subject == HTTVPS {
            row.goal = goal;
        }
    }

    pub(crate) fn value(&self, figure: &str, subject: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.figure == figure)?.value(subject)
    }

    /// The measures whose goal was missed.
    pub(crate) fn missed(&self) -> Vec<&str> {
        let is_missed = |row: &&Row| row.value(HTTVPS).is_some_and(|value| !row.goal.is_met(value));
        self.rows.iter().filter(is_missed).map(|row| row.figure.as_str()).collect()
    }

    pub(crate) fn print_table(&self) {
        let is_used = |column: &&str| self.rows.iter().any(|row| row.value(column).is_some());
        let columns: Vec<&str> = COLUMNS.into_iter().filter(is_used).collect();
        println!("\n| measure | unit | {} | httvps / sing-box | floor / sing-box | target |", columns.join(" | "));
        println!("| --- | --- |{} --- | --- | --- |", " ---: |".repeat(columns.len()));
        for row in &self.rows {
            let cell = |column: &&str| row.value(column).map_or_else(String::new, short);
            let cells: Vec<String> = columns.iter().map(cell).collect();
            let ratio = |subject: &str| match (row.value(subject), row.value(SING_BOX)) {
                (Some(value), Some(theirs)) if theirs > 0.0 => format!("{:.2}", value / theirs),
                _ => String::new(),
            };
            let (ours, floor) = (ratio(HTTVPS), ratio(FLOOR));
            let target = row.value(HTTVPS).map_or_else(String::new, |value| row.goal.text(value));
            println!("| {} | {} | {} | {ours} | {floor} | {target} |", row.figure, row.unit, cells.join(" | "));
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
