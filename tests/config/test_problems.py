from config.problems import ConfigError, Problem, did_you_mean, dotted, shown


def test_config_error_sorts_its_problems_and_drops_repetitions() -> None:
    late, early = Problem("f", 10, 1, "b"), Problem("f", 9, 2, "a")
    error = ConfigError([late, early, late])
    assert error.problems == [early, late]
    assert str(error) == "f:9:2: a\nf:10:1: b"


def test_paths_are_written_with_dots_and_positions() -> None:
    assert dotted(("models", "a/b", "urls", 0, "url")) == "models.a/b.urls[0].url"
    assert dotted(()) == ""


def test_near_words_are_offered_and_long_values_are_not_quoted() -> None:
    assert did_you_mean("idel", ["idle", "env"]) == "; did you mean 'idle'?"
    assert did_you_mean("zzz", ["idle"]) == did_you_mean("i" * 999, ["idle"]) == ""
    assert (shown("x"), shown("x" * 41)) == ("'x'", "this text")
