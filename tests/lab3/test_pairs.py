"""Sentences and their translations: the grammar's rules, Multi30k's files, subwords, batches."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import download_multi30k
from lab3 import pairs
from lab3.pairs import PAD, START, STOP, PairBatches, Pairs
from records import ROOT
from synthetic import translation
from synthetic.translation import translations

DATA = ROOT.parent / "shared" / "data"


def write_multi30k(root, sizes=(6, 3, 2)):
    folder = root / "multi30k"
    folder.mkdir(parents=True)
    for part, size in zip(pairs.PARTS.values(), sizes, strict=True):
        for language in ("en", "de"):
            lines = "".join(f"{part} {language} süß {i}\n" for i in range(size))
            (folder / f"{part}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


# --- the grammar -------------------------------------------------------------------------------------


def by_rule(english: str) -> str:
    """The translation of a sentence, from its words alone: a second way, which parses what the grammar wrote."""
    words, nouns = english.removesuffix(".").split(), {}
    for noun, other in translation.NOUNS.items():
        nouns |= {noun: other, translation.PLURALS.get(noun, f"{noun}s"): f"{other}i"}
    verbs = {form: (other, form == forms[2]) for forms, other in translation.VERBS.items() for form in forms}

    def phrase(words):
        at = words.index("near") if "near" in words else len(words)
        own, near = words[:at], words[at + 1 :]
        adjective = "".join(translation.ADJECTIVES.get(word, "") for word in own)
        noun = nouns[own[-1]]
        ending = "i" if own[-1] not in translation.NOUNS else ""
        particle = translation.DETERMINERS["a" if own[0] == "an" else own[0]][0]
        return [*([*phrase(near), "apu"] if near else []), particle, noun, adjective + ending if adjective else ""]

    place = next(i for i, word in enumerate(words) if word in verbs)
    verb, past = verbs[words[place]]
    start = place - 2 if words[place - 1] == "not" else place
    past = past or words[start] == "did"
    ending = (["ne"] if start < place else []) + [("ka" if past else "") + verb]
    return " ".join(filter(None, [*phrase(words[:start]), *phrase(words[place + 1 :]), *ending])) + "."


def test_translations_follow_the_rules():
    found = translations(500)
    assert len({english for english, _ in found}) == 500
    assert [other for _, other in found] == [by_rule(english) for english, _ in found]
    assert found[:100] == translations(100)
    assert translations(5, seed=1) != translations(5, seed=2)
    assert any("an old" in english for english, _ in found)


# --- Multi30k ----------------------------------------------------------------------------------------


def test_the_toy_parts_have_no_sentence_in_common():
    corpus = pairs.load_corpus("toy")
    assert corpus.describe()["sizes"] == pairs.TOY_SIZES
    assert corpus.describe()["source"] == "synthetic"
    every = [source for part in pairs.PARTS for source in getattr(corpus, part).sources]
    assert len(set(every)) == len(every)


def test_multi30k_line_by_line(tmp_path):
    write_multi30k(tmp_path)
    corpus = pairs.load_corpus("multi30k", tmp_path)
    assert corpus.describe()["sizes"] == {"train": 6, "val": 3, "test": 2}
    en, de = ([f"test_2016_flickr {language} süß {i}" for i in range(2)] for language in ("en", "de"))
    assert corpus.test == Pairs(tuple(en), tuple(de))


def test_what_is_missing_damaged_or_uneven_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.en\.gz is not there: run `python download_multi30k\.py"):
        pairs.load_corpus("multi30k", tmp_path)
    folder = write_multi30k(tmp_path)
    (folder / "val.de.gz").write_bytes(gzip.compress(b"one\n"))
    with pytest.raises(ValueError, match=r"val in .* has 3 and 1 sentences: run"):
        pairs.load_corpus("multi30k", tmp_path)
    (folder / "val.de.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"val\.de\.gz is damaged .* delete it, and run"):
        pairs.load_corpus("multi30k", tmp_path)


@pytest.mark.real_data
def test_the_real_files_are_those_that_are_downloaded():
    if not (DATA / "multi30k").exists():
        pytest.skip("there is no ../shared/data")
    assert pairs.load_corpus("multi30k", DATA).describe()["sizes"] == {"train": 29_000, "val": 1014, "test": 1000}
    for name, sha256 in download_multi30k.SHA256.items():
        assert hashlib.sha256((DATA / "multi30k" / name).read_bytes()).hexdigest() == sha256


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local server with small files under the published names, and their hashes in place of the published ones."""
    folder = tmp_path / "served"
    folder.mkdir()
    hashes = {}
    for name in download_multi30k.SHA256:
        data = gzip.compress(name.encode())
        (folder / name).write_bytes(data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(download_multi30k, "SHA256", hashes)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", folder
        served.shutdown()


@pytest.mark.timeout(60)
def test_the_download_keeps_good_files_and_refuses_others(server, tmp_path, capsys):
    url, served = server
    assert download_multi30k.main(["--root", str(tmp_path / "data"), "--url", url]) == 0
    assert "9 files, SHA-256 as recorded here" in capsys.readouterr().out
    (served / "val.de.gz").write_bytes(b"another file")
    download_multi30k.download(tmp_path / "data", url)  # nothing is fetched again
    with pytest.raises(OSError, match=r"val\.de\.gz: its 12 bytes are not those that were published"):
        download_multi30k.download(tmp_path / "elsewhere", url)
    assert not (tmp_path / "elsewhere" / "multi30k" / "val.de.gz").exists()


# --- subwords and batches ----------------------------------------------------------------------------


def test_subwords_give_every_text_back():
    part = pairs.load_corpus("toy").train
    tokenizer = pairs.train_vocabulary(part, 600)
    texts = (*part.sources[:50], "Straße, 3½ naïve 漢字!", "unseen words come back")
    encoded = pairs.encode(tokenizer, texts, start=True)
    assert all(tokens[0] == START and tokens[-1] == STOP for tokens in encoded)
    assert [pairs.decode(tokenizer, tokens[1:-1]) for tokens in encoded] == list(texts)
    assert tokenizer.get_vocab_size() <= 600  # fewer where every word is one already
    assert [tokenizer.token_to_id(token) for token in pairs.SPECIAL] == [PAD, START, STOP]
    words = sum(len(text.split()) for text in texts[:50])
    assert sum(map(len, encoded[:50])) - 100 < 1.2 * words  # most words of the training part are one token


def test_each_pair_comes_once_an_epoch_and_lengths_lie_together():
    lengths = torch.randint(1, 40, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    sources = [[5] * length for length in lengths]
    targets = [[START, number + 3, STOP] for number in range(1003)]
    batches = PairBatches(sources, targets, 10, seed=0)
    first, again, second = (list(batches.epoch(number)) for number in (1, 1, 2))
    assert len(first) == len(batches) == 101
    seen = [target[:, 1] - 3 for _, target in first]
    assert torch.cat(seen).sort().values.equal(torch.arange(1003))
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert not torch.equal(first[0][1], second[0][1])
    for source, target in first:
        assert (source != PAD).sum(1).tolist() == [lengths[number - 3] for number in target[:, 1].tolist()]
    padding = sum((source == PAD).sum().item() for source, _ in first) / sum(source.numel() for source, _ in first)
    assert padding < 0.05  # in random order it would be 40 %
