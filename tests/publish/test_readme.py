"""README.md and docs/: generated parts as the results give them, links, figures, commands and numbers that hold."""

import contextlib
import functools
import hashlib
import io
import json
import re
import shlex
import shutil
import tomllib

import numpy as np
import pytest
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from torch.distributed.run import get_args_parser

import records
from asr import metrics
from asr import runs as q3
from publish import answers, catalogue, flags, readme, tables, verdicts

ROOT = records.ROOT
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in readme.pages(ROOT)}
README = PAGES["README.md"]
WITHOUT_RESULTS = [name for name in readme.TABLES if name not in ("demo", "flags", "layout")]


def rows(text):
    """The cells of each table's rows, a list for each table, without its header."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    split = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()] for table in tables]
    return [[[cell.strip() for cell in row] for row in table[2:]] for table in split]


def prose(text):
    """A page without its generated parts, code, and the targets of links."""
    text = readme.PART.sub("", text)
    return re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)


def links(text):
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


# --- generated parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_generated_parts_are_current(page):
    assert readme.render(PAGES[page], ROOT) == PAGES[page], "run make tables"


def test_every_part_has_its_place_once():
    used = [part[2] for text in PAGES.values() for part in readme.PART.finditer(text)]
    assert sorted(used) == sorted(readme.TABLES)
    assert sum(text.count("<!-- ") for text in PAGES.values()) == 2 * len(used)


def test_the_demos_output_is_there():
    path = ROOT / readme.DEMO_OUTPUT
    assert path.exists(), f"{readme.DEMO_OUTPUT} is missing: make demo writes it"
    printed = re.search(r"<!-- demo: made .*?```\n(.*?)```", README, re.DOTALL)[1]
    assert set(printed.splitlines()) <= set(path.read_text().splitlines())
    assert 6 <= len(printed.splitlines()) <= 12
    assert "synthetic" in printed


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A repository of results, plots and sections to change."""
    root = tmp_path_factory.mktemp("root")
    for name in ("results", "plots", "report/sections"):
        shutil.copytree(ROOT / name, root / name)
    return root


@contextlib.contextmanager
def changed(path, change):
    """A JSON file with other contents for a while."""
    before = path.read_bytes()
    result = json.loads(before)
    change(result)
    path.write_text(json.dumps(result))
    yield
    path.write_bytes(before)


def test_missing_results_are_rows_with_their_command(tmp_path):
    shutil.copytree(ROOT / "report/sections", tmp_path / "report/sections")
    texts = {name: readme.TABLES[name](tmp_path) for name in WITHOUT_RESULTS}
    every = "\n".join(texts.values())
    assert "±" not in every
    for run in (run for run in catalogue.RUNS if run not in q3.FULL_JOINED):
        assert f"not run here: `{run.shown_command}`" in every
    assert texts["answers"].count("not run here") == 7


def test_one_decoder_alone_is_no_comparison(copy, tmp_path):
    path = copy / "results" / f"{q3.REVOICED.names(decoder='transformer')[0]}.json"
    moved = shutil.move(path, tmp_path)
    text = readme.question_3_front(copy)
    shutil.move(moved, path)
    assert "| not run here: `python -m asr train --decoder transformer --data data/revoiced" in text


def exchange(first, second):
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def test_conclusions_follow_the_numbers(copy):
    """One network's accuracy is lowered; the two decoders' error rates are exchanged."""
    assert "without; no difference is resolved." in answers.answers(copy)
    with changed(copy / "results/q2/pneumoniamnist-sweep.json", better_without_pooling):
        assert "without; no pooling is better." in answers.answers(copy)

    def better():
        table = rows(readme.question_3_front(copy) + "\n")[0]
        return [row[-1] for row in table if row[0].startswith("many voices, then")]

    paths = [copy / f"results/q3/revoiced-{decoder}-seed0.json" for decoder in ("lstm", "transformer")]
    before = better()
    exchange(*paths)
    after = better()
    exchange(*paths)
    assert (before, after) == (["LSTM"], ["Transformer"])


def better_without_pooling(sweep):
    for model in sweep["models"].values():
        if "test" in model["metrics"] and not model["settings"]["no_maxpool"]:
            accuracy = model["metrics"]["test"]["accuracy"]
            accuracy["mean"] -= 0.2


def test_one_seed_has_no_deviation():
    assert tables.spread(records.mean_std([0.5]), 100, 1) == "50.0"
    assert tables.spread(records.mean_std([0.4, 0.6]), 100, 1) == "50.0 ± 14.1"
    assert "±" not in tables.score([(None, {"metrics": {"test": {"loss": 0.5}}})], "loss")


# --- verdicts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooled", "strided", "expected"),
    [
        ((0.90, 0.92), (0.80, 0.82), "max-pooling is better by 10.0 points (standard error 1.4)"),
        ((0.80, 0.82), (0.90, 0.92), "max-pooling is worse by 10.0 points (standard error 1.4)"),
        ((0.90, 0.80), (0.86, 0.80), "2.0 points (standard error 5.8), which the seeds do not resolve"),
        ((0.90,), (0.80,), "a difference of 10.0 points of one seed each"),
    ],
)
def test_verdict_weighs_the_difference_against_the_seeds(pooled, strided, expected):
    pair = records.mean_std(list(pooled)), records.mean_std(list(strided))
    assert expected in verdicts.verdict("max-pooling", *pair)
    assert expected in verdicts.verdict("max-pooling", *reversed(pair), more_is_better=False)
    assert (verdicts.resolved(*pair) != 0) == ("by 10.0" in expected)


def test_paired_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(3)
    shared, noise = rng.normal(0, 5, 400), rng.normal(0.2, 1, 400)
    interval = verdicts.paired_bootstrap(list(shared + noise), list(shared))
    half = 1.96 * noise.std(ddof=1) / 20
    np.testing.assert_allclose(interval, (noise.mean() - half, noise.mean() + half), atol=0.03)  # of 1,000 resamples
    with pytest.raises(ValueError, match="3 and 2 test items"):
        verdicts.paired_bootstrap([1, 2, 3], [1, 2])


def test_single_runs_are_compared_clip_by_clip():
    rng = np.random.default_rng(4)
    clips = rng.uniform(0, 1, 200)  # their intervals overlap by far
    metric = lambda values: {"mean": float(np.mean(values)), "values": list(values)}  # noqa: E731
    runs = {"worse": [metric(clips + 0.01 + 0.01 * rng.normal(size=200))], "better": [metric(clips)]}
    assert verdicts.fewer_errors(runs) == "better"
    assert verdicts.fewer_errors({"a": runs["better"], "b": [metric(rng.permutation(clips))]}) is None
    several = {"a": [metric([0.1]), metric([0.12])], "b": [metric([0.2]), metric([0.22])]}
    assert verdicts.fewer_errors(several) == "a"
    assert verdicts.fewer_errors(several | {"b": several["b"][:1]}) is None


# --- the first page --------------------------------------------------------------------------------------


def test_the_first_page_is_short():
    assert len(README.splitlines()) <= 165
    tables = rows(README)
    assert len(tables) == 5
    assert max(len(cell) for table in tables for row in table for cell in row) <= 120
    assert [len(table) <= most for table, most in zip(tables, (11, 8, 8, 8, 12), strict=True)] == [True] * 5


def test_questions_are_those_of_the_report():
    """A row for each section, in order, and the statement's hundred points."""
    sections = [
        f"{question}.{place}"
        for question in (1, 2, 3)
        for place in range(1, 1 + (ROOT / f"report/sections/question{question}.tex").read_text().count(r"\subsection{"))
    ]
    table = rows(README)[0]
    assert [row[0].partition(" ")[0] for row in table] == sections
    assert [row[4] for row in table] == [f"[{section}](report/report.pdf)" for section in sections]
    assert sum(int(row[1]) for row in table) == 100


def test_numbers_in_prose_have_a_source():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = {"1", "2", "3", project["requires-python"].removeprefix(">="), str(metrics.LEVEL), str(verdicts.LEVEL)}
    assert set(re.findall(r"\d[\d.,]*\d|\d", prose(README))) - known == {"6"}  # gigabytes of PyTorch with CUDA
    runs = prose(PAGES["docs/runs.md"])
    for row in json.loads((ROOT / "report/published.json").read_text())["images"]:
        assert f"{row['auc']:.3f}" in runs
        assert f"{100 * row['accuracy']:.1f} %" in runs.replace("\n", " ")
    path, result = q3.SCRATCH.results(ROOT, decoder="lstm")[0]
    assert result["data"]["sizes"] == {"train": 245, "validation": 35, "test": 65}, path
    assert "245 to train on, 35 to validate, 65 to test" in PAGES["docs/runs.md"]
    assert {run["budget"]["clips"] for _, run in q3.FEW.results(ROOT, decoder="lstm")} == {2000}
    found = [json.loads(path.read_text()) for path in (ROOT / "results").rglob("*.json")]
    assert {result["environment"]["cores"] for result in found if not result["environment"]["gpu"]} == {2}
    gpus = {(result["question"], result["environment"]["gpu"]) for result in found if result["environment"]["gpu"]}
    assert gpus == {("deep_features", "NVIDIA H200")}
    assert all("NVIDIA H200" in prose(PAGES[f"docs/{page}.md"]) for page in ("platforms", "deep-features"))


# --- links and figures -----------------------------------------------------------------------------------


def slugs(text):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in links(PAGES[page]):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in slugs(target.read_text()), f"{page} links to {link}"


def test_figures_belong_to_their_row():
    """A figure's metadata has the hashes of all result files of its row."""
    shown = 0
    for table in rows(PAGES["docs/runs.md"]):
        for row in table:
            found = [ROOT / "docs" / link for link in links(" | ".join(row))]
            hashes = {digest(path) for path in found if path.suffix == ".json"}
            for figure in (path for path in found if path.suffix == ".png"):
                assert hashes
                assert hashes <= sources(figure), f"{figure} does not belong to {row[0]}"
                shown += 1
    assert shown > 40
    picture = re.search(r"!\[.+\]\((.+\.png)\)", README)[1]
    results = [path for name in ("lstm", "transformer") for path, _ in readme.PICTURE.results(ROOT, decoder=name)]
    assert {digest(path) for path in results} == sources(ROOT / picture)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sources(figure):
    return set(re.findall(r"sha256:(\w{64})", Image.open(figure).text.get("Subject", "")))


def test_every_result_and_every_figure_is_listed():
    listed = {(ROOT / page).parent.joinpath(link).resolve() for page, text in PAGES.items() for link in links(text)}
    for path in [*(ROOT / "results").rglob("*.json"), *(ROOT / "plots").rglob("*.png")]:
        assert path.resolve() in listed, f"{path} stands nowhere in docs/: add it to the catalogue"


def test_synthetic_results_are_called_synthetic():
    """In their row, or in the heading of its section."""
    checked = 0
    for page in ("docs/runs.md", "docs/speed.md"):
        for section in re.split(r"^(?=#)", PAGES[page], flags=re.MULTILINE):
            for table in re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE):
                beside = section.splitlines()[0] + table.splitlines()[0]
                for line in table.splitlines()[2:]:
                    paths = [ROOT / "docs" / link for link in links(line) if link.endswith(".json")]
                    kinds = {json.loads(path.read_text())["data"]["source"] for path in paths}
                    assert kinds != {"synthetic"} or "synthetic" in beside + line, line
                    checked += len(paths)
    assert checked > 50


def test_messages_of_troubleshooting_are_ours():
    """Their words stand in the code, but for what comes from torchvision and from the system."""
    source = "".join(path.read_text() for path in [*ROOT.glob("[!.]*/*.py"), *ROOT.glob("*.py"), ROOT / "Makefile"])
    quoted = re.findall(r"^\*\*`(.+)`\*\*", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(quoted) > 3
    for part in (part for message in quoted for part in re.split(r" \.\.\. ", message)):
        foreign = ("torchvision::nms", "No space left on device")
        words = part.replace("SIGKILL", "").strip()
        assert words in source or any(text in part for text in foreign), part


# --- commands and flags ----------------------------------------------------------------------------------


def commands(text):
    """Every command of a page, in a block or within a line."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()] + [" ".join(code.split()) for code in inline]
    found = [re.match(r"!?(?:\S*[/\\])?(?:python|torchrun|accelerate launch|make) .*", line.strip()) for line in lines]
    return [match[0].removeprefix("!").replace("\\", "/") for match in found if match]


LAUNCHERS = {"torchrun": get_args_parser, "accelerate": launch_command_parser}
EVERY_COMMAND = sorted({command for text in PAGES.values() for command in commands(text)})
parser_of = functools.cache(flags.parser_of)


def test_commands_are_found():
    assert len(EVERY_COMMAND) > 35
    assert {"make homework", "python q1_linear_attention.py"} <= set(EVERY_COMMAND)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_commands_parse(command):
    words = shlex.split(command.replace("DECODER", "lstm").replace("SEED", "0"), comments=True)
    program, words = words[0].rpartition("/")[2], words[1:]
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if program in LAUNCHERS:
        launched = LAUNCHERS[program]().parse_args(words[program == "accelerate" :])
        words = ["-m"] * bool(launched.module) + [launched.training_script, *launched.training_script_args]
    script, words = (" ".join(words[:2]), words[2:]) if words[0] == "-m" else (words[0], words[1:])
    assert script in flags.SCRIPTS or (ROOT / script).exists()
    if any(word.startswith("-") for word in words) and words != ["--help"]:  # not only named
        parser_of(script).parse_args(words)  # exits with 2 where it takes no such flags


@pytest.mark.parametrize("script", flags.SCRIPTS)
def test_flags_are_those_of_help(script):
    """Help is printed by argparse; docs/flags.md by our own code."""
    for name, parser in flags.subcommands(parser_of(script)).items():
        section = (
            PAGES["docs/flags.md"].partition(f"## `{f'python {script} {name}'.rstrip()}`\n")[2].partition("\n## ")[0]
        )
        help_text = io.StringIO()
        parser.print_help(help_text)
        expected = set(re.findall(r"^ +(?:-\w+(?: \S+)?, )?(--\w+)", help_text.getvalue(), re.MULTILINE)) - {"--help"}
        assert set(re.findall(r"^\| `(--\w+)", section, re.MULTILINE)) == expected
