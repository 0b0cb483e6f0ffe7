//! What quantising does to each hidden state.

use super::super::chart::{Chart, ChartPage, Places, Point, Series};
use super::super::page::Modes;
use super::super::scale::ScaleKind;
use super::{in_order, legend, nested, positive, subtitle};
use crate::results::{Evaluation, Record};

pub(super) fn layer_snr(records: &[&Record], modes: &Modes) -> ChartPage {
    let (mut shown, mut snr, mut distance) = (Vec::new(), Vec::new(), Vec::new());
    let mut states = 0;
    let modes_in_order = in_order(records, modes);
    for (number, &(name, colour, record)) in modes_in_order.iter().enumerate() {
        let Some(Evaluation::Layers(layers)) = &record.evaluation else {
            continue;
        };
        states = states.max(layers.hidden_states.len());
        let points = |value: &dyn Fn(usize) -> Option<f64>| -> Vec<Point> {
            let values = (0..layers.hidden_states.len()).filter_map(|index| Some((index, value(index)?)));
            values
                .map(|(index, y)| Point {
                    x: index as f64,
                    y,
                    ..Point::default()
                })
                .collect()
        };
        let series = |points| Series {
            colour,
            points,
            line: true,
            radius: nested(number, modes_in_order.len(), 8.0),
        };
        let of_snr = points(&|index| Some(layers.hidden_states[index].snr_db).filter(|snr| snr.is_finite()));
        if of_snr.is_empty() {
            continue;
        }
        let of_cosine = points(&|index| {
            layers.hidden_states[index]
                .cosine_mean
                .map(|cosine| 1.0 - cosine)
                .filter(|distance| positive(*distance))
        });
        shown.push((name, colour));
        snr.push(series(of_snr));
        distance.push(series(of_cosine));
    }
    let names: Vec<String> = (0..states)
        .map(|index| match index {
            0 => "emb".to_owned(),
            _ if index + 1 == states => "norm".to_owned(),
            _ => index.to_string(),
        })
        .collect();
    let chart = |title: &str, axis: &str, kind, series| Chart {
        title: title.to_owned(),
        x_axis: "Hidden state".to_owned(),
        y_axis: axis.to_owned(),
        places: Places::Names(names.clone()),
        y_kind: kind,
        series,
    };
    ChartPage {
        title: "What quantising does to the hidden states".to_owned(),
        subtitle: subtitle(records),
        charts: vec![
            chart("Signal-to-noise ratio", "SNR (dB)", ScaleKind::FromZero, snr),
            chart("Cosine distance", "1 − cosine", ScaleKind::Logarithmic, distance),
        ],
        columns: 2,
        legend: legend(&shown),
        notes: "Token by token against the f32 reference. emb: the embedding; then the output of each layer; norm: the \
                last after the final norm. States equal to the reference's have no place on these axes. \
                Points of later modes are smaller, so that equal ones show."
            .to_owned(),
    }
}
