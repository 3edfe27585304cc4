//! Micro-benchmarks of what each update costs without any I/O: CONTRIBUTING.md says how to run them.

use std::{
    collections::{BTreeMap, HashMap},
    hint::black_box,
    time::Duration,
};

use anyhow::{Result, ensure};
use axum::http::{HeaderMap, HeaderValue, header};
use criterion::{BatchSize, Criterion, Throughput};
use gateway::{auth::Auth, config::AuthConfig};
use harness::{CLAIM, SECRET, token};
use serde_json::json;
use shared::{
    domain::{
        component::{Attribute, Component, ComponentId},
        impact::Impact,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    settings::Settings,
    wire::message::UpdateMessage,
};
use uuid::Uuid;
use worker::domain::{ActiveState, Update, decide};

/// Updates of a batch, as a busy worker takes them.
const BATCH: u64 = 512;
/// Components that they are about.
const COMPONENTS: u64 = 100;

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    decisions(&mut criterion)?;
    messages(&mut criterion)?;
    tokens(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// A batch into an empty state, where every component opens or joins an incident, and the same batch
/// again, which changes nothing: monitors repeat themselves.
fn decisions(criterion: &mut Criterion) -> Result<()> {
    let updates = (0..BATCH)
        .map(|index| {
            let component = ComponentId((index % COMPONENTS) as i32);
            let impact = Impact::try_from((index / COMPONENTS % 3) as i16 + 1)?;
            Ok((Update { component, text: "Incident", at: at(index as i64)? }, impact))
        })
        .collect::<Result<Vec<_>>>()?;
    let apply = |mut state: ActiveState| {
        let mut timeline = Vec::new();
        for (update, impact) in &updates {
            let decision = decide(&state, *update, *impact);
            black_box(state.carry_out(&decision, *update, &mut timeline));
        }
        black_box(timeline);
        state
    };
    let empty = ActiveState::new(BTreeMap::new(), HashMap::new());
    let full = apply(empty.clone());

    let mut group = criterion.benchmark_group("decision");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("batch that changes much", |bencher| {
        bencher.iter_batched(|| empty.clone(), apply, BatchSize::SmallInput);
    });
    group.bench_function("batch that changes nothing", |bencher| {
        bencher.iter_batched(|| full.clone(), apply, BatchSize::SmallInput);
    });
    group.finish();
    Ok(())
}

fn messages(criterion: &mut Criterion) -> Result<()> {
    let attributes = [("region", "Region 1"), ("category", "Compute"), ("type", "ecs")];
    let attributes = attributes
        .map(|(name, value)| Attribute { name: name.to_owned(), value: value.to_owned() })
        .to_vec();
    let update = UpdateMessage {
        id: UpdateId(Uuid::from_u128(0x019a_0000_0000_7000_8000_0000_0000_0001)),
        component: Component {
            id: ComponentId(1),
            name: "Virtual Machines".to_owned(),
            attributes,
        },
        condition: Impact::Major.into(),
        text: "High latency of the control plane".to_owned(),
        received_at: at(0)?,
        idempotency: None,
        report: None,
    };
    let bytes = update.encode();

    let mut group = criterion.benchmark_group("update");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&update).encode()));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| UpdateMessage::decode(black_box(&bytes)));
    });
    group.finish();
    Ok(())
}

fn tokens(criterion: &mut Criterion) -> Result<()> {
    let settings = [("SDB_SECRET_KEY", SECRET), ("SDB_API_PAYLOAD_KEY", CLAIM)];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let auth = Auth::new(AuthConfig::from_settings(&Settings::new(settings))?);
    let bearer = format!("Bearer {}", token(SECRET, &json!({ CLAIM: "benchmark" })));
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&bearer)?);
    ensure!(auth.verify(&headers).is_ok(), "the token is refused");
    criterion.bench_function("token/verify", |bencher| {
        bencher.iter(|| auth.verify(black_box(&headers)));
    });
    Ok(())
}

fn at(micros: i64) -> Result<Timestamp> {
    Ok(Timestamp::from_micros(1_764_072_000_000_000 + micros)?)
}
