//! What happens in a simulation, and how it is drawn.

use proptest::{bool::weighted, collection::vec, option, prelude::*, sample::select};
use shared::{
    domain::{condition::Condition, impact::Impact, timestamp::Timestamp},
    wire::message::Report,
};

/// Components that updates are about.
pub(super) const COMPONENTS: i32 = 4;
const STEPS: usize = 70;
const TITLES: [&str; 3] = ["Incident", "it's <down>", "R&D \"lab\" unreachable"];

/// What happens, in order, from an empty database with one worker.
#[derive(Clone, Debug)]
pub struct History(pub Vec<Step>);

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A gateway queues an update, as it travels alone.
    Post(Update),
    /// A gateway queues several updates, those of a partition in one envelope; and what is wrong with each
    /// of these envelopes.
    PostMany(Vec<Update>, Option<Flaw>),
    /// A message is delivered again as a whole, after all that is queued.
    Redeliver(Pick),
    /// A message is delivered from the dead-letter queue, perhaps though it was settled.
    GiveUp(Pick),
    /// A message is delivered again of which the database refused an update until then, perhaps though
    /// that was settled.
    Refuse(Pick),
    /// A worker takes a batch of so many updates at most; it may end inside an envelope.
    Work(Pick, usize, End),
    /// A worker takes a batch, and someone else writes while its transaction is under way: when it was
    /// waited for so often.
    Beside(Pick, usize, Edit, usize, Hold),
    /// Two workers take a batch each at the same time.
    Together(Pick, Pick, usize),
    /// A worker joins: the partitions are shared anew.
    Join,
    /// A worker leaves, with nothing in its hands.
    Leave(Pick),
    /// A worker takes a batch and stalls before its transaction; the others miss it.
    Stall(Pick, usize),
    /// All workers that stalled go on with what they have in their hands.
    Wake,
    /// Someone else writes.
    Edit(Edit),
    /// An operator puts all back that is parked.
    PutBack,
}

/// An update; those with the same key are sent again, perhaps with another meaning.
#[derive(Clone, Debug)]
pub struct Update {
    /// The component's id.
    pub component: i32,
    /// The impact, or `ok`.
    pub condition: Condition,
    /// Whose report it is; none as in messages of older versions.
    pub report: Option<Report>,
    /// The title.
    pub title: &'static str,
    /// The idempotency key.
    pub key: Option<u8>,
    /// What is wrong with its message.
    pub flaw: Option<Flaw>,
}

/// One of those that there are at that moment: this one, counted round and round.
#[derive(Clone, Copy, Debug)]
pub struct Pick(pub usize);

impl Pick {
    pub(super) const fn of(self, count: usize) -> usize {
        self.0 % count
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug)]
pub enum Flaw {
    /// Its bytes are cut off; of an entry of an envelope, they are of another form.
    Unreadable,
    /// It has a version that nobody knows.
    Version,
    /// Nothing, but RabbitMQ gives it up before any worker settles it.
    GivenUp,
    /// The database refuses it again and again.
    Refused,
}

/// How a worker's batch ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// Committed, acknowledged, replied.
    Done,
    /// The worker is killed after the commit, before the acknowledgement.
    KilledAfterCommit,
    /// The worker is killed when its transaction was waited for so often.
    KilledIn(usize),
}

/// How an edit ends that is made beside a batch.
#[derive(Clone, Copy, Debug)]
pub enum Hold {
    /// It is committed at once.
    Commit,
    /// It is held open until the batch is through, or has waited for it for a while, and is committed.
    Held,
    /// It is held open likewise, and rolled back.
    RollBack,
}

/// What operators do, through the Python dashboard or by hand, without a lock of ours.
#[derive(Clone, Debug)]
pub enum Edit {
    /// An open incident or maintenance ends.
    Close(Pick),
    /// A system incident becomes a manual one, with a word from the operator; perhaps it ends.
    TakeOver(Pick, bool),
    /// An operator's update of an incident, so many minutes ahead of the clock.
    Comment(Pick, i32),
    /// A component is taken out of an incident, perhaps into a new one of its own.
    Separate(Pick, Pick, bool),
    /// A manual incident that ended goes on.
    Reopen(Pick),
    /// A manual incident or a maintenance gets another start and end, in hours from now.
    Move(Pick, i32, Option<i32>),
    /// A manual incident gets another impact.
    ChangeImpact(Pick, Impact),
    /// A component is added to a manual incident, a maintenance, or a system incident that has ended.
    Attach(Pick, i32),
    /// A manual incident or, without impact, a maintenance is added: its components, its start and its
    /// end in hours from now.
    Add(Vec<i32>, Option<Impact>, i32, Option<i32>),
    /// Several are added at once that all run and have these components: manual incidents or, without
    /// impact, maintenances, each with an end in an hour or without one.
    Cover(Vec<i32>, Vec<(Option<Impact>, bool)>),
    /// An incident is deleted with all that belongs to it.
    Delete(Pick),
    /// A component gets another name: its id now means another one.
    Rename(i32),
    /// A component goes; when it is gone, it comes back.
    Toggle(i32),
}

pub(super) fn histories() -> impl Strategy<Value = History> {
    vec(step(), 1..=STEPS).prop_map(History)
}

fn pick() -> impl Strategy<Value = Pick> {
    (0..1_000_usize).prop_map(Pick)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => update().prop_map(Step::Post),
        6 => post_many(),
        5 => pick().prop_map(Step::Redeliver),
        1 => pick().prop_map(Step::GiveUp),
        2 => pick().prop_map(Step::Refuse),
        8 => beside(),
        12 => (pick(), 1..12_usize, end()).prop_map(|(w, n, end)| Step::Work(w, n, end)),
        3 => (pick(), pick(), 1..12_usize)
            .prop_map(|(a, b, n)| Step::Together(a, b, n)),
        3 => Just(Step::Join),
        1 => pick().prop_map(Step::Leave),
        2 => (pick(), 1..12_usize).prop_map(|(worker, n)| Step::Stall(worker, n)),
        2 => Just(Step::Wake),
        6 => edit().prop_map(Step::Edit),
        2 => Just(Step::PutBack),
    ]
}

fn beside() -> impl Strategy<Value = Step> {
    let hold = select(&[Hold::Commit, Hold::Commit, Hold::Held, Hold::RollBack][..]);
    (pick(), 1..12_usize, edit(), 0..14_usize, hold)
        .prop_map(|(worker, n, edit, polls, hold)| Step::Beside(worker, n, edit, polls, hold))
}

fn update() -> impl Strategy<Value = Update> {
    let flaw = prop_oneof![15 => Just(None), 1 => flaw().prop_map(Some)];
    let key = option::weighted(0.2, 0..4_u8);
    (1..=COMPONENTS, said(), select(&TITLES[..]), key, flaw).prop_map(
        |(component, (condition, report), title, key, flaw)| Update {
            component,
            condition,
            report,
            title,
            key,
            flaw,
        },
    )
}

/// An impact, or an `ok`, of one of few sources and keys: so each often speaks again, late and doubled.
fn said() -> impl Strategy<Value = (Condition, Option<Report>)> {
    let impact = (select(&Impact::REPORTABLE[..]), option::weighted(0.7, report()));
    let impact = impact.prop_map(|(impact, report)| {
        (impact.into(), report.map(|report| Report { ends_at: None, ..report }))
    });
    let ok = report()
        .prop_map(|report| (Condition::Ok, Some(Report { ttl: None, starts_at: None, ..report })));
    prop_oneof![3 => impact, 2 => ok]
}

fn report() -> impl Strategy<Value = Report> {
    // Of the sender's clock, which is compared with itself alone.
    // One is decades ahead.
    let seconds = prop_oneof![9 => 0..9_i64, 1 => Just(4_000_000_000)];
    let time = || option::of(seconds.clone().prop_map(of_sender));
    (select(&["", "prometheus"][..]), weighted(0.2), option::of(Just(60)), time(), time()).prop_map(
        |(source, has_key, ttl, starts_at, ends_at)| Report {
            source: source.to_owned(),
            key: if has_key { "disk".to_owned() } else { String::new() },
            ttl,
            starts_at,
            ends_at,
        },
    )
}

#[expect(clippy::expect_used, reason = "seconds after 1970 are in range")]
fn of_sender(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000).expect("in range")
}

fn post_many() -> impl Strategy<Value = Step> {
    let flaw = prop_oneof![9 => Just(None), 1 => flaw().prop_map(Some)];
    (vec(update(), 1..9), flaw).prop_map(|(updates, flaw)| Step::PostMany(updates, flaw))
}

fn flaw() -> impl Strategy<Value = Flaw> {
    select(&[Flaw::Unreadable, Flaw::Version, Flaw::GivenUp, Flaw::Refused][..])
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Done),
        1 => Just(End::KilledAfterCommit),
        3 => (1..30_usize).prop_map(End::KilledIn),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let impact = option::of(select(&Impact::REPORTABLE[..]));
    let add = (vec(1..=COMPONENTS, 0..3), impact, -2..2, option::of(-1..3));
    prop_oneof![
        3 => pick().prop_map(Edit::Close),
        2 => (pick(), any::<bool>()).prop_map(|(incident, ends)| Edit::TakeOver(incident, ends)),
        1 => (pick(), 0..3).prop_map(|(incident, minutes)| Edit::Comment(incident, minutes)),
        2 => (pick(), pick(), any::<bool>())
            .prop_map(|(incident, which, opens)| Edit::Separate(incident, which, opens)),
        1 => pick().prop_map(Edit::Reopen),
        1 => (pick(), -2..2, option::of(-2..3))
            .prop_map(|(incident, start, end)| Edit::Move(incident, start, end)),
        1 => (pick(), select(&Impact::REPORTABLE[..]))
            .prop_map(|(incident, impact)| Edit::ChangeImpact(incident, impact)),
        1 => (pick(), 1..=COMPONENTS)
            .prop_map(|(incident, component)| Edit::Attach(incident, component)),
        2 => add.prop_map(|(components, impact, start, end)| {
            Edit::Add(components, impact, start, end)
        }),
        3 => cover().prop_map(|(components, kinds)| Edit::Cover(components, kinds)),
        1 => pick().prop_map(Edit::Delete),
        1 => (1..=COMPONENTS).prop_map(Edit::Rename),
        4 => (1..=COMPONENTS).prop_map(Edit::Toggle),
    ]
}

/// Several maintenances, or several manual incidents, of one component are rare unless they are drawn
/// together; so are those with an end that are older than those without.
fn cover() -> impl Strategy<Value = (Vec<i32>, Vec<(Option<Impact>, bool)>)> {
    let impact = option::of(select(&Impact::REPORTABLE[..]));
    (vec(1..=COMPONENTS, 1..3), vec((impact, any::<bool>()), 2..4))
}
