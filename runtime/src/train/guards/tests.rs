use super::*;

/// K = 100, D = 16, batches of 8 and a queue of 32 from the second epoch on.
fn guards(overrides: &[&str]) -> Guards {
    let mut all = vec![
        "model.nmb_prototypes=100",
        "model.feat_dim=16",
        "train.batch_size=8",
        "train.epochs=20",
        "loss.queue_length=32",
        "loss.epoch_queue_starts=1",
        "guards.patience_steps=10",
    ];
    all.extend(overrides);
    let all: Vec<String> = all.into_iter().map(String::from).collect();
    Guards::new(&Preset::from_toml("", &all).expect("valid"), GuardState::default())
}

fn healthy(step: u64) -> StepReport {
    let stats = [("code_entropy", 2.0), ("feature_std", 0.2), ("live_prototypes", 12.0), ("grad_norm", 1.0)];
    let stats = stats.map(|(name, value)| (name.to_owned(), value)).into();
    StepReport { step, epoch: 0, learning_rate: 0.1, loss: 3.0, stats, overflowed: false, queue: None }
}

fn with(step: u64, name: &str, value: f32) -> StepReport {
    let mut report = healthy(step);
    match name {
        "loss" => report.loss = value,
        _ => drop(report.stats.insert(name.into(), value)),
    }
    report
}

#[test]
fn a_healthy_run_is_left_alone() {
    let mut guards = guards(&["guards.collapse=stop", "guards.dead_prototypes=stop"]);
    for step in 0..100 {
        assert_eq!(guards.judge(&healthy(step)), None);
    }
    assert!(guards.state().strikes.is_empty() && guards.state().streaks.is_empty());
}

#[test]
fn what_is_not_finite_is_seen_at_once_and_named() {
    for (name, value, word) in [("loss", f32::NAN, "loss is NaN"), ("grad_norm", f32::INFINITY, "gradient norm is inf")] {
        let strike = guards(&[]).judge(&with(41, name, value)).expect("a strike");
        assert_eq!(strike.response, Response::Stop);
        for word in [word, "step 41", "optim.base_lr", "loss.epsilon"] {
            assert!(strike.message.contains(word), "{word} in {}", strike.message);
        }
        let strike = guards(&["guards.not_finite=rollback"]).judge(&with(41, name, value)).expect("a strike");
        assert_eq!(strike.response, Response::RollBack { healthy_step: 41 });
    }
}

#[test]
fn a_collapse_strikes_when_it_has_lasted_and_names_its_setting() {
    for (name, value, setting, action) in [
        ("code_entropy", 4.6, "loss.epsilon", "guards.collapse"),
        ("feature_std", 0.001, "optim.base_lr", "guards.collapse"),
        ("loss", 4.6, "optim.base_lr", "guards.collapse"),
        ("live_prototypes", 0.0, "loss.sinkhorn_iterations", "guards.dead_prototypes"),
    ] {
        let mut guards = guards(&[&format!("{action}=rollback")]);
        for step in 0..29 {
            // One good step ends a streak.
            let report = if step == 19 { healthy(step) } else { with(step, name, value) };
            let strike = guards.judge(&report);
            match step {
                // Nine steps in a row are not yet ten.
                0..=8 | 19..=28 => assert_eq!(strike, None, "{name} in step {step}"),
                _ => assert_eq!(strike.map(|strike| strike.response), Some(Response::RollBack { healthy_step: 0 }), "{name} in step {step}"),
            }
        }
        assert_eq!(guards.healthy_step(29), 20);
        let strike = guards.judge(&with(29, name, value)).expect("a strike");
        assert_eq!(strike.response, Response::RollBack { healthy_step: 20 });
        assert!(strike.message.contains(setting) && strike.message.contains("for 10 steps"), "{}", strike.message);
    }
}

#[test]
fn of_several_strikes_the_severest_counts_with_the_words_of_its_equals() {
    let mut guards = guards(&["guards.collapse=rollback", "guards.not_finite=skip", "guards.patience_steps=2"]);
    assert_eq!(guards.judge(&with(0, "feature_std", 0.0)), None);
    let mut both = with(1, "feature_std", 0.0);
    both.loss = 4.6;
    assert_eq!(guards.judge(&both).map(|strike| strike.response), Some(Response::RollBack { healthy_step: 0 }));
    both.step = 2;
    let strike = guards.judge(&both).expect("a strike");
    assert_eq!(strike.response, Response::RollBack { healthy_step: 0 }, "the earlier of 0 and 1");
    assert!(strike.message.contains("collapsed") && strike.message.contains("guessing"), "{}", strike.message);
    both.stats.insert("grad_norm".into(), f32::NAN);
    both.step = 3;
    assert!(matches!(guards.judge(&both).expect("a strike").response, Response::RollBack { .. }), "more than a skip");
}

#[test]
fn a_warning_comes_again_after_twice_the_time_only() {
    let mut guards = guards(&[]);
    let mut counts = Vec::new();
    for step in 0..45 {
        assert_eq!(guards.judge(&with(step, "feature_std", 0.0)), None, "a warning stops nothing");
        counts.push(guards.state().strikes.get(&Guard::CollapsedFeatures).copied().unwrap_or(0));
    }
    assert_eq!((counts[8], counts[9], counts[18], counts[19], counts[38], counts[39], counts[44]), (0, 1, 1, 2, 2, 3, 3));
}

#[test]
fn skips_and_rollbacks_have_a_limit() {
    let mut skipping = guards(&["guards.not_finite=skip", "guards.max_skips=2"]);
    let mut responses = |step: u64, loss| skipping.judge(&with(step, "loss", loss)).map(|strike| strike.response);
    assert_eq!([responses(0, f32::NAN), responses(1, f32::NAN)], [Some(Response::Skip); 2]);
    assert_eq!(responses(2, 3.0), None);
    assert_eq!([responses(3, f32::NAN), responses(4, f32::NAN), responses(5, f32::NAN)], [Some(Response::Skip), Some(Response::Skip), Some(Response::Stop)]);

    let mut rolling = guards(&["guards.not_finite=rollback", "guards.max_rollbacks=2"]);
    for factor in [0.5, 0.25] {
        assert!(matches!(rolling.judge(&with(7, "loss", f32::NAN)), Some(Strike { response: Response::RollBack { .. }, .. })));
        rolling.roll_back_to(&GuardState::default());
        assert_eq!(rolling.state().learning_rate_factor, factor);
    }
    let strike = rolling.judge(&with(7, "loss", f32::NAN)).expect("a strike");
    assert!(strike.response == Response::Stop && strike.message.contains("guards.max_rollbacks"), "{strike:?}");
}

#[test]
fn a_queue_that_does_not_fill_is_dead_within_three_steps() {
    let at = |step: u64, filled| StepReport { epoch: step / 5, queue: Some((filled, 32)), ..healthy(step) };
    let mut filling = guards(&["guards.dead_queue=stop"]);
    for (step, filled) in [0, 0, 0, 0, 0, 0, 8, 16, 24, 32, 32, 32, 32, 32].into_iter().enumerate() {
        assert_eq!(filling.judge(&at(step as u64, filled)), None, "a queue that fills and is full");
    }
    let mut stuck = guards(&["guards.dead_queue=stop"]);
    let struck = [0, 0, 0, 0, 0, 0, 8, 8, 8, 8].into_iter().enumerate().map(|(step, filled)| stuck.judge(&at(step as u64, filled)).is_some());
    assert_eq!(struck.collect::<Vec<_>>(), [false, false, false, false, false, false, false, false, false, true]);
    let mut empty = guards(&["guards.dead_queue=stop"]);
    let struck: Vec<u64> = (0..14).filter(|&step| empty.judge(&at(step, 0)).is_some()).collect();
    assert_eq!(struck.first(), Some(&12), "three steps into the epoch after the one in which it starts");
}

#[test]
fn a_queue_that_a_run_does_not_live_to_see_is_named() {
    let preset = guards(&[]).preset;
    assert_eq!(unused_queue(&preset, 5, 100), None);
    let message = unused_queue(&preset, 5, 9).expect("full after step 9");
    assert!(message.contains("loss.epoch_queue_starts") && message.contains("step 9"), "{message}");
}

#[test]
fn waiting_for_data_warns_or_ends_the_run() {
    let mut stopping = guards(&["guards.stalled_data=stop", "guards.stall_secs=5"]);
    stopping.waited(4.9).expect("not yet");
    let message = stopping.waited(5.0).expect_err("stalled").to_string();
    assert!(message.contains("no batch for 5 s") && message.contains("train.workers"), "{message}");
    let mut warning = guards(&["guards.stall_secs=5"]);
    for secs in [5.0, 6.0, 9.9, 10.0, 19.0] {
        warning.waited(secs).expect("warnings only");
    }
    assert_eq!(warning.state().strikes[&Guard::StalledData], 2);
}
