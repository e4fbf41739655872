//! Engine over a store whose server is replaced, with its journal and a participant.

use super::*;

/// Starts an engine, its journal and a participant. Its lease is not renewed.
pub(super) async fn start(
    store: &Arc<Replaced>,
    faults: &Faults,
    tasks: &mut JoinSet<()>,
) -> Handle {
    start_for(HOUR, store, faults, tasks).await.0
}

/// Starts the same with a lease of this length, and returns what renews it.
pub(super) async fn start_for(
    length: Duration,
    store: &Arc<Replaced>,
    faults: &Faults,
    tasks: &mut JoinSet<()>,
) -> (Handle, lease::Service) {
    let (engine, driving, renewals) = assemble(length, store, faults, tasks).await;
    tasks.spawn(driving.run());
    (engine, renewals)
}

/// Makes the same without running the engine.
pub(in crate::engine::service) async fn assemble(
    length: Duration,
    store: &Arc<Replaced>,
    faults: &Faults,
    tasks: &mut JoinSet<()>,
) -> (Handle, Service, lease::Service) {
    let config = Config::default();
    let store: &Arc<dyn Store> = &(Arc::clone(store) as _);
    let me = store.incarnations().create("one", 0, length).await.expect("an answer").expect("it");
    let (lease, renewals) = lease::lease(Arc::clone(store), me, length, Instant::now());
    let metrics = Arc::new(Metrics::default());
    let directory = Arc::new(Directory::new(config.directory()));
    let looks = Arc::new(Looks { store: Arc::clone(store), faults: Arc::clone(faults) });
    directory.add_local(ParticipantName::new("p").expect("a name"), looks);
    let (journal, journaling, completions) =
        journal(Arc::clone(store), me, Arc::clone(&metrics) as _);
    tasks.spawn(async move { journaling.run().await.expect("no fault") });
    let (engine, driving) = engine(Parts {
        me,
        options: config.engine(),
        clock: Clock::new(
            Arc::new(SystemEnv),
            store.purge().times().await.expect("times").database,
        ),
        store: Arc::clone(store),
        directory,
        metrics,
        lease,
        journal,
        completions,
        adoption_wanted: Arc::new(Notify::new()),
        spans: Default::default(),
    });
    (engine, driving, renewals)
}
