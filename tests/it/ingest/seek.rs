//! The command `ingest seek`, with and without a running instance.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_back_is_noticed_by_a_reader_that_has_nothing_to_read() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        let scheduler = start(&world, world.kafka()).await;
        let mut records: Vec<RawRecord> = (0..30).map(keyed).collect();
        records.insert(20, RawRecord::new(0, "no JSON"));
        produce(&world.topic, &records).await;
        wait_until(DEADLINE, "all jobs to end", async || fired_and_done(&scheduler, 30)).await;

        // Kept by no job any more: only the keys remain.
        let moved = seek(&world, &["--to-offset", "10", "--yes"]).await;
        assert_eq!(moved["moved"], true, "{backend:?}: {moved}");
        assert_eq!(one_move(&moved), [31, 10, 21, 0], "{backend:?}");
        assert_eq!(moved["partitions"][0]["moved"], true, "{backend:?}: {moved}");
        wait_until(DEADLINE, "the records again", async || received(&scheduler) == 52).await;
        let metrics = scheduler.ingest_metrics();
        assert_eq!(metrics.messages_duplicate, 20, "{backend:?}");
        assert_eq!(metrics.messages_processed, 30, "{backend:?}");
        assert_eq!(metrics.offsets_lost + metrics.logs_recreated, 0, "{backend:?}");

        // A stale word of the move must not make it begin again for ever: what comes goes on.
        produce(&world.topic, &[keyed(30)]).await;
        wait_until(DEADLINE, "one more job", async || fired_and_done(&scheduler, 31)).await;
        assert_eq!(received(&scheduler), 53, "{backend:?}");
        scheduler.shutdown(DEADLINE).await;
        check_fired(&world, 31).await;
        assert_eq!(world.database.count("select count(*) from scheduler_dead_letter").await, 1);
        totals_add_up(&world, &[53]).await;
    }
}

/// The instance was declared dead and goes on under another id: its readers' rows must name that.
#[tokio::test(flavor = "multi_thread")]
async fn a_seek_is_noticed_after_the_instance_has_joined_anew() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        let scheduler = start(&world, world.kafka()).await;
        produce(&world.topic, &(0..10).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        wait_until(DEADLINE, "the records", async || received(&scheduler) == 10).await;
        world.database.execute("update scheduler_instance set dead = true").await;
        wait_until(DEADLINE, "the row to name the new instance", async || {
            let named = "select count(*) from scheduler_ingest_offset join scheduler_instance \
                         on scheduler_instance.id = scheduler_ingest_offset.instance \
                         where not scheduler_instance.dead";
            world.database.count(named).await == 1
        })
        .await;
        seek(&world, &["--to-beginning", "--yes"]).await;
        wait_until(DEADLINE, "the records again", async || received(&scheduler) == 20).await;
        assert_eq!(scheduler.ingest_metrics().messages_duplicate, 10, "{backend:?}");
        scheduler.shutdown(DEADLINE).await;
        totals_add_up(&world, &[20]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_while_records_flow_loses_and_doubles_nothing() {
    const RECORDS: i64 = 2500;
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        produce(&world.topic, &(0..RECORDS).map(|n| later(0, n as usize)).collect::<Vec<_>>())
            .await;
        // In many batches: the row moves all the while.
        let config =
            KafkaIngestConfig { max_poll_records: 2.try_into().expect("a limit"), ..world.kafka() };
        let scheduler = start(&world, config).await;
        let mut again = 0;
        for reached in [200, 400, 600] {
            wait_until(DEADLINE, "the flow", async || next_offset(&world).await > reached).await;
            let moved = seek(&world, &["--to-offset", &(reached / 2).to_string(), "--yes"]).await;
            let [from, to, read_again, skipped] = one_move(&moved);
            assert!(from < RECORDS, "{backend:?}: nothing flowed any more");
            assert_eq!([read_again, skipped], [from - to, 0], "{backend:?}: {moved}");
            again += read_again;
        }
        wait_until(DEADLINE, "the end", async || next_offset(&world).await == RECORDS).await;
        scheduler.shutdown(DEADLINE).await;
        assert_eq!(
            world.database.count("select count(*) from scheduler_job").await,
            RECORDS,
            "{backend:?}"
        );
        let line = &listing(&world).await[0];
        assert_eq!(number(line, "jobs"), RECORDS, "{backend:?}: {line}");
        assert_eq!(number(line, "duplicates"), again, "{backend:?}: {line}");
        totals_add_up(&world, &[RECORDS + again]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_to_a_time_goes_to_the_first_record_that_is_not_older() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        produce(&world.topic, &(0..10).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        let last = read_all(&world.topic).await[9].timestamp_ms;
        wait_until(DEADLINE, "another millisecond", async || SystemClock.now_ms() > last).await;
        produce(&world.topic, &(10..20).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        read(&world, world.kafka(), 20).await;
        let moment = read_all(&world.topic).await[10].timestamp_ms;
        let moment = infinite_scheduler::model::time::ScheduledTime::from_epoch_ms(moment);
        let moment = moment.expect("a time").to_string();
        let moved = seek(&world, &["--to-time", &moment, "--yes"]).await;
        assert_eq!(one_move(&moved), [20, 10, 10, 0], "{backend:?}: {moment}");
        read(&world, world.kafka(), 10).await;
        let late = seek(&world, &["--to-time", "2200-01-01T00:00:00Z", "--yes"]).await;
        assert_eq!(one_move(&late), [20, 20, 0, 0], "{backend:?}");
        totals_add_up(&world, &[30]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_to_the_end_skips_what_was_not_read_but_only_when_confirmed() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        produce(&world.topic, &(0..10).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        read(&world, world.kafka(), 10).await;
        produce(&world.topic, &(10..30).map(|n| later(0, n)).collect::<Vec<_>>()).await;

        let careless = ingest(&world, &["seek", "--to-end"]).await;
        assert_eq!(careless.status.code(), Some(1), "{backend:?}");
        let said = text(&careless.stderr);
        assert!(said.contains("20 records would be skipped for good"), "{said}");
        assert!(said.contains("add --yes"), "{said}");
        assert_eq!(next_offset(&world).await, 10, "{backend:?}");

        let moved = seek(&world, &["--to-end", "--yes"]).await;
        assert_eq!(one_move(&moved), [10, 30, 0, 20], "{backend:?}");
        produce(&world.topic, &(30..35).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        read(&world, world.kafka(), 5).await;
        assert_eq!(
            world.database.count("select count(*) from scheduler_job").await,
            15,
            "{backend:?}"
        );
        totals_add_up(&world, &[15]).await;
        let nothing = ingest(&world, &["seek", "--to-end"]).await;
        assert_eq!(nothing.status.code(), Some(0), "{backend:?}");
        assert!(text(&nothing.stderr).contains("nothing to move"), "{}", text(&nothing.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_and_changes_nothing() {
    for backend in Database::all() {
        let world = World::new(backend, 2).await;
        produce(&world.topic, &(0..10).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        read(&world, world.kafka(), 10).await;
        world.database.execute("delete from scheduler_ingest_offset where number = 1").await;
        let reader = "select reader from scheduler_ingest_offset where number = 0";
        let before = (listing(&world).await, world.database.count(reader).await);
        assert_eq!(before.0[1]["nextOffset"], Value::Null, "{backend:?}");
        let dry = ingest(&world, &["seek", "--to-offset", "0", "--dry-run"]).await;
        assert_eq!(dry.status.code(), Some(0), "{backend:?}: {}", text(&dry.stderr));
        let said = text(&dry.stderr);
        assert!(said.contains("10 records would be read again"), "{said}");
        assert!(said.contains("becomes a job again") && said.contains("a dry run"), "{said}");
        let rows = text(&dry.stdout);
        let row: Vec<&str> = rows.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(row[1..], ["0", "10", "0", "10", "0", "no"], "{rows}");
        let after = (listing(&world).await, world.database.count(reader).await);
        assert_eq!(before, after, "{backend:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sought_is_refused_with_what_can() {
    for backend in Database::all() {
        let world = World::new(backend, 2).await;
        produce(&world.topic, &(0..40).map(|n| later(n as i32 % 2, n)).collect::<Vec<_>>()).await;
        read(&world, world.kafka(), 40).await;
        delete_records_before(&world.topic, 0, 5).await;
        for (arguments, code, said) in [
            (&["--to-offset", "4"][..], 3, "its log begins at 5 and ends at 20"),
            (&["--to-offset", "21"], 3, "its log begins at 5 and ends at 20"),
            (&["--to-offset", "21", "--partition", "1"], 3, "begins at 0 and ends at 20"),
            (&["--to-end", "--partition", "2"], 2, "has partitions 0 to 1"),
            (&["--to-end", "--topic", "foreign"], 2, "kafka.topics has"),
            (&["--to-time", "soon"], 2, "is not a time"),
            (&["--partition", "1"], 2, "--to-offset"),
            (&["--to-end", "--to-beginning"], 2, "cannot be used with"),
        ] {
            let arguments: Vec<&str> = [&["seek", "--yes"], arguments].concat();
            let refused = ingest(&world, &arguments).await;
            let stderr = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(code), "{backend:?} {arguments:?}: {stderr}");
            assert!(stderr.contains(said), "{backend:?} {arguments:?}: {stderr}");
        }
        let still = "select count(*) from scheduler_ingest_offset where next_offset = 20";
        assert_eq!(world.database.count(still).await, 2, "{backend:?}");
        let moved = seek(&world, &["--to-offset", "4", "--partition", "1", "--yes"]).await;
        assert_eq!(one_move(&moved), [20, 4, 16, 0], "{backend:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_never_read_begins_where_it_was_sought() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        let made = run(&world.config(), &["migrate"]).await;
        assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
        produce(&world.topic, &(0..10).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        let line = &listing(&world).await[0];
        assert_eq!([&line["nextOffset"], &line["owner"]], [&Value::Null; 2], "{line}");
        assert_eq!(number(line, "endOffset"), 10, "{line}");
        let moved = seek(&world, &["--to-offset", "7", "--yes"]).await;
        assert_eq!(one_move(&moved), [0, 7, 0, 7], "{backend:?}");
        let again = seek(&world, &["--to-offset", "7", "--yes"]).await;
        let [of_all, of_one] = [&again["moved"], &again["partitions"][0]["moved"]];
        assert_eq!([of_all, of_one], [&Value::Bool(false); 2], "{backend:?}: it stands there");
        read(&world, world.kafka(), 3).await;
        assert_eq!(
            world.database.count("select count(*) from scheduler_job").await,
            3,
            "{backend:?}"
        );
        totals_add_up(&world, &[3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_clusters_and_groups_stay_where_they_are() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        produce(&world.topic, &(0..10).map(|n| later(0, n)).collect::<Vec<_>>()).await;
        read(&world, world.kafka(), 10).await;
        for (cluster, group) in [("'elsewhere'", "consumer_group"), ("cluster", "'others'")] {
            let copy = format!(
                "insert into scheduler_ingest_offset (cluster, consumer_group, topic, number, reader, \
                 next_offset) select {cluster}, {group}, topic, number, 7, 9 from scheduler_ingest_offset \
                 where next_offset = 10"
            );
            world.database.execute(&copy).await;
        }
        assert_eq!(listing(&world).await.len(), 1, "{backend:?}");
        seek(&world, &["--to-beginning", "--yes"]).await;
        let others =
            "select count(*) from scheduler_ingest_offset where next_offset = 9 and reader = 7";
        assert_eq!(world.database.count(others).await, 2, "{backend:?}");
        assert_eq!(
            world.database.count("select min(next_offset) from scheduler_ingest_offset").await,
            0
        );
    }
}

/// `on_offset_lost = "stop"` waits for an operator; a seek is enough, without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stopped_goes_on_where_it_was_sought() {
    let world = World::new(Database::Sqlite, 1).await;
    let config = KafkaIngestConfig { on_offset_lost: OnOffsetLost::Stop, ..world.kafka() };
    produce(&world.topic, &(0..30).map(|n| later(0, n)).collect::<Vec<_>>()).await;
    read(&world, config.clone(), 30).await;
    make_again(&world.topic).await;
    produce(&world.topic, &(30..40).map(|n| later(0, n)).collect::<Vec<_>>()).await;
    let scheduler = start(&world, config).await;
    wait_until(DEADLINE, "the complaint", async || {
        scheduler.health().sentences().iter().any(|why| why.contains("ingest seek"))
    })
    .await;
    assert_eq!(scheduler.ingest_metrics().logs_recreated, 1);
    let moved = seek(&world, &["--to-offset", "4", "--yes"]).await;
    assert_eq!(one_move(&moved), [30, 4, 6, 0]);
    wait_until(DEADLINE, "the rest", async || received(&scheduler) == 6).await;
    wait_until(DEADLINE, "no complaint", async || scheduler.health().sentences().is_empty()).await;
    scheduler.shutdown(DEADLINE).await;
    totals_add_up(&world, &[36]).await;
}
