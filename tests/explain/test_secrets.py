"""What a text about a configuration must not show."""

from config.load import parse
from config.masked import secrets_in

TEXT = """\
version: 1
admin: {key: admin-secret}
models:
  m:
    hot: {urls: [{url: "http://127.0.0.1:9/v1", key: hot-secret}]}
    cold:
      command: "no-such-program --port {port}"
      env: {HF_TOKEN: "${env.TOKEN}", THREADS: "8000", SHORT_KEY: abc}
    api: {url: "http://127.0.0.1:9/v1", key: api-secret}
policies:
  p:
    first_match:
      - when: {header: {x-team-token: [header-secret, "*"], x-team: open-word}}
        use: m
      - when:
          any_of:
            - header: {cookie: any-secret}
            - all_of: [{not: {header: {authorization: "Bearer inner-secret"}}}]
        use: m
      - use: m
"""


def test_secrets_are_keys_secret_variables_and_values_of_secret_headers() -> None:
    assert set(secrets_in(parse(TEXT, "file", {"TOKEN": "env-secret"}))) == {
        "admin-secret",
        "hot-secret",
        "env-secret",
        "api-secret",
        "header-secret",
        "any-secret",
        "Bearer inner-secret",
    }


def test_the_longest_comes_first_so_that_none_is_left_in_part() -> None:
    lengths = [len(each) for each in secrets_in(parse(TEXT, "file", {"TOKEN": "env-secret"}))]
    assert lengths == sorted(lengths, reverse=True)
