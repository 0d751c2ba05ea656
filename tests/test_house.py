"""The house: who may import whom, and that no two modules import each other."""

import ast
import graphlib
import subprocess

import pytest

from records import ROOT

# from the ground up: a module imports from lower layers, or from its own folder within its layer; a new course adds a
# layer before "publishing", and its folder to SEPARATE
LAYERS = {
    "the ground": ["command_line", "records"],
    "files": ["common.pictures", "common.saved_models", "common.processes", "common.catalogue", "common.cifar"],
    "pretrained networks": ["common.pretrained"],
    "search": ["common.search"],
    "embedded data": ["synthetic.*"],
    "images": ["image_data"],
    "training": ["utils"],
    "scores and grids": ["common.classification", "common.geometry", "common.grid"],
    "speech": ["common.speech.*"],
    "recipes": ["common.recipes", "common.residual", "common.shaped_cnn", "common.strong"],
    "downloads": ["download_octmnist", "download_ljspeech", "download_multi30k"],
    "Question 1's parts": ["q1.*"],
    "Question 1": ["q1_linear_attention"],
    "attention": ["attention"],
    "the Vision Transformer": ["vision_transformer"],
    "what it looks at": ["common.vit_looks"],
    "Question 2's parts": ["q2.*"],
    "Question 2": ["hw2-q2"],
    "Question 3": ["asr.*"],
    "deep feature learning": ["deep_features.*"],
    "assignments' parts": ["assignments.hw1.*", "assignments.hw2.*", "assignments.hw3.*", "assignments.hw4.*"],
    "assignments": ["assignments.*"],
    "Lab 3": ["lab3.*"],
    "publishing": ["publish.*"],
    "the top": ["demo.*", "benchmarks.*"],
}
SEPARATE = [
    "q2",
    "asr",
    "deep_features",
    "assignments",
    "lab3",
]  # folders of questions and courses, which know nothing of each other


def modules():
    """Every module that is no test, by its dotted name, with its file."""
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    names = {file.removesuffix(".py").replace("/", "."): ROOT / file for file in files}
    return {name: path for name, path in names.items() if not name.startswith("tests.")}


MODULES = modules()


def layer_of(name):
    """The number of a module's layer."""
    patterns = {pattern: place for place, layer in enumerate(LAYERS.values()) for pattern in layer}
    return patterns.get(name, patterns.get(f"{name.rpartition('.')[0]}.*"))


def imported(path):
    """The modules of this repository that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found & MODULES.keys()


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__init__")])
def test_every_module_imports_from_below(name):
    assert layer_of(name) is not None, f"{name} stands in no layer: add it to LAYERS, or to a folder that does"
    for other in IMPORTS[name]:
        same_folder = name.rpartition(".")[0] == other.rpartition(".")[0]
        below = layer_of(other) < layer_of(name) or (layer_of(other) == layer_of(name) and same_folder)
        assert below, f"{name} imports {other}, which does not stand below it"


def test_questions_and_courses_know_nothing_of_each_other():
    for name, others in IMPORTS.items():
        folders = {other.partition(".")[0] for other in others} & set(SEPARATE)
        assert name.partition(".")[0] not in SEPARATE or folders <= {name.partition(".")[0]}, name


def test_no_imports_go_round_in_a_circle():
    order = list(graphlib.TopologicalSorter(IMPORTS).static_order())  # raises CycleError, with the circle
    assert len(order) == len(MODULES)
    assert IMPORTS["hw2-q2"] >= {"utils", "q2.config", "common.classification"}  # imports are found
    assert "hw2-q2" in IMPORTS["publish.tables_q2"]
