"""Templates that were compiled are read, not compiled again; whatever is wrong with them, the page is the same."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from cxrbatch.pages.compiled_templates import CompiledTemplates


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return tmp_path / "kept"


def render(source: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """Return what a new process would render, and how many templates it would compile for that."""
    compiled: list[str] = []
    compile_source = jinja2.Environment._compile

    def noted(environment: jinja2.Environment, source: str, filename: str) -> object:
        compiled.append(filename)
        return compile_source(environment, source, filename)

    with monkeypatch.context() as patched:
        patched.setattr(jinja2.Environment, "_compile", noted)
        loader = jinja2.DictLoader({"page": source})
        environment = jinja2.Environment(loader=loader, autoescape=True, bytecode_cache=CompiledTemplates(kept))
        return environment.get_template("page").render(name="<b>"), len(compiled)


def test_a_template_is_compiled_once_and_again_when_it_changes(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert render("a {{ name }}", kept, monkeypatch) == ("a &lt;b&gt;", 1)
    assert render("a {{ name }}", kept, monkeypatch) == ("a &lt;b&gt;", 0)
    assert render("c {{ name }}", kept, monkeypatch) == ("c &lt;b&gt;", 1)
    assert render("c {{ name }}", kept, monkeypatch) == ("c &lt;b&gt;", 0)
    assert len(list(kept.iterdir())) == 1, "nothing half written is left"


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda _: b"", lambda content: content[:75] + b"N"])
def test_a_damaged_file_is_compiled_anew(kept: Path, monkeypatch: pytest.MonkeyPatch, damage: object) -> None:
    render("a {{ name }}", kept, monkeypatch)
    (file,) = kept.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert render("a {{ name }}", kept, monkeypatch) == ("a &lt;b&gt;", 1)


def test_nothing_is_kept_where_python_keeps_nothing_or_nothing_can_be_written(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write_text("in the way")
    assert render("a {{ name }}", kept, monkeypatch) == ("a &lt;b&gt;", 1)
    kept.unlink()
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert render("a {{ name }}", kept, monkeypatch) == ("a &lt;b&gt;", 1)
    assert not kept.exists()
