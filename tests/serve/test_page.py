"""The page's files: served to everybody, whole, and without anything that its policy would stop."""

import re
from html.parser import HTMLParser

import pytest

from eyas.serve.page import PAGE, PATHS

TEXTS = {path: content.decode() for path, (content, _) in PAGE.items()}
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never fetched


def test_every_file_comes_with_its_type_and_policy(server):
    for path in PATHS:
        response = server.http.get(path)
        assert response.status_code == 200
        assert response.text == TEXTS[path]
        assert response.headers["content-type"] == PAGE[path][1]
        policy = response.headers["content-security-policy"].split("; ")
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"unsafe|https?:|\*", " ".join(policy))
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_a_server_with_a_key_shows_its_page_without(serve):
    server = serve(api_key="s3cret")
    for path in PATHS:
        assert server.http.get(path).status_code == 200
    assert server.http.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    "path", ["/page/", "/page/__init__.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/index.html"]
)
def test_nothing_else_is_served(server, path):
    assert server.http.get(path).status_code == 404


def test_the_page_is_no_part_of_the_api(server):
    assert not set(PATHS) & server.http.get("/openapi.json").json()["paths"].keys()


def test_files_refer_to_files_that_are_there():
    named = set(re.findall(r'(?:src|href)="([^"]+)"', TEXTS["/"]))
    assert {"page/app.js", "page/style.css"} <= named
    assert {f"/{name}" for name in named} <= set(PATHS)
    modules = [path for path in PATHS if path.endswith(".js")]
    imported = {name for path in modules for name in re.findall(r'from "\./([^"]+)"', TEXTS[path])}
    assert {f"/page/{name}" for name in imported} | {"/page/app.js"} == set(modules), "no module is unused"


def test_no_file_names_another_origin():
    for path, text in TEXTS.items():
        assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]", text.replace(NAMESPACE, "")), path


def test_markup_holds_no_code_and_no_style():
    wrong = []

    class Check(HTMLParser):
        def handle_starttag(self, tag, attrs):
            names = dict(attrs)
            if tag == "style" or (tag == "script" and "src" not in names):
                wrong.append(tag)
            wrong.extend(f"{tag} {name}" for name in names if name == "style" or name.startswith("on"))

    Check().feed(TEXTS["/"])
    assert not wrong


def test_every_id_that_a_module_asks_for_is_there():
    there = set(re.findall(r'\bid="([^"]+)"', TEXTS["/"]))
    for path, text in TEXTS.items():
        assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= there, path
