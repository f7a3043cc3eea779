"""Chat templates run as in transformers, in a sandbox, and fail in one line."""

import datetime

import pytest

from eyas.errors import ConfigError
from eyas.models.chat_template import ChatTemplate

MESSAGES = [{"role": "user", "content": "a < b & 'c' ☂"}]

TEMPLATES = [
    "{% for m in messages %}\n  {%- if m.role == 'user' %}\n  [{{ m.content }}]\n  {% endif %}{% endfor %}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(ensure_ascii=True) }}",
    "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}{% break %}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content | trim }}{% endgeneration %}\n{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{{ bos_token }}{% if add_generation_prompt %}go{% endif %}{{ tools }}{{ documents is none }}",
    "{{ messages[0]['content'].split('b')[-1].strip() }}{{ messages[0].get('name', 'nobody') }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_text_is_that_of_transformers(template, prompt):
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs, _ = chat.render_jinja_template(
        conversations=[MESSAGES],
        chat_template=template,
        add_generation_prompt=prompt,
        bos_token="<s>",
    )
    ours = ChatTemplate(template).render(messages=MESSAGES, add_generation_prompt=prompt, bos_token="<s>")
    assert [ours] == theirs


def test_the_date_is_todays():
    year = ChatTemplate("{{ strftime_now('%Y') }}").render()
    assert int(year) - datetime.datetime.now().year in (0, -1)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "Expected"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[7]['role'] }}", "no element 7"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].update(role='x') }}", "unsafe"),
        ("{{ range(10 ** 9) | list }}", "range"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{% include 'secrets' %}", "loader"),
    ],
)
def test_failures_and_break_outs_are_one_line(template, reason):
    with pytest.raises(ConfigError) as caught:
        ChatTemplate(template).render(messages=MESSAGES)
    assert reason in str(caught.value)
    assert "--raw" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert MESSAGES == [{"role": "user", "content": "a < b & 'c' ☂"}]


def test_a_template_is_compiled_once(monkeypatch):
    template = ChatTemplate("{{ messages[0].content }}")
    first = template.render(messages=MESSAGES)
    monkeypatch.setattr("eyas.models.chat_template._environment", None)  # would be an error
    assert template.render(messages=MESSAGES) == first


def test_one_conversation_leaves_nothing_for_the_next():
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    )
    template = ChatTemplate(source)
    assert [template.render(messages=MESSAGES * count) for count in (1, 3, 1)] == ["1", "3", "1"]
