"""Foreign files: the same rows from every format, nothing copied, nothing changed."""

from __future__ import annotations

import pickle
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.distributions import Normal, Uniform

import simgen
from simgen import Dataset, DatasetError, Prior
from simgen.storage.importing import import_arrays
from simgen.stream import Batches

N = 700
PRIOR = Prior(mass=Uniform(0.0, 1.0), width=Normal(0.0, 1.0))


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "mass": rng.uniform(size=N).astype("f4"),
        "width": rng.standard_normal(N).astype("f4"),
        "x": rng.standard_normal((N, 3, 4)).astype("f4"),
        "label": rng.integers(0, 9, N).astype("i4"),
    }


BY_COLUMNS = {"theta": ["mass", "width"], "x": "x", "z_l": "label"}


def write_hdf5(path: Path, rows, **options) -> tuple[Path, dict]:
    with h5py.File(path / "a.h5", "w", **options) as file:
        for name, array in rows.items():
            file.create_dataset(
                f"deep/er/{name}", data=array, chunks=(64, *array.shape[1:]), compression="gzip"
            )
        file["other/notes"] = np.arange(3)
        file.attrs["made by"] = "someone"
    names = {"theta": ["deep/er/mass", "deep/er/width"], "x": "deep/er/x", "z_l": "deep/er/label"}
    return path / "a.h5", names


def write_table(path: Path, rows) -> tuple[Path, dict]:
    table = np.empty(N, [("mass", ">f8"), ("width", "f8"), ("x", "f4", (3, 4)), ("label", ">i4")])
    for name, array in rows.items():
        table[name] = array
    with h5py.File(path / "t.hdf5", "w", userblock_size=512) as file:
        file["events"] = table
    names = {"theta": ["events/mass", "events/width"], "x": "events/x", "z_l": "events/label"}
    return path / "t.hdf5", names


def write_npy_folder(path: Path, rows) -> tuple[Path, dict]:
    (path / "npy").mkdir()
    for name, array in rows.items():
        wide = array.astype(">f8") if array.dtype.kind == "f" else array.astype(">i4")
        np.save(path / "npy" / f"{name}.npy", np.asfortranarray(wide))
    (path / "npy" / "README").write_text("notes")
    return path / "npy", BY_COLUMNS


def write_npz(path: Path, rows) -> tuple[Path, dict]:
    np.savez(path / "a.npz", **rows)
    return path / "a.npz", BY_COLUMNS


def write_compressed(path: Path, rows) -> tuple[Path, dict]:
    np.savez_compressed(path / "c.npz", **rows)
    return path / "c.npz", BY_COLUMNS


def write_npz_folder(path: Path, rows) -> tuple[Path, dict]:
    (path / "npz").mkdir()
    for i, low in enumerate(range(0, N, 64)):  # batch_10 comes after batch_9
        part = {k: v[low : low + 64] for k, v in rows.items()}
        (np.savez if i % 2 else np.savez_compressed)(path / "npz" / f"batch_{i}.npz", **part)
    return path / "npz", BY_COLUMNS


def write_root(path: Path, rows) -> tuple[Path, dict]:
    uproot = pytest.importorskip("uproot")
    with uproot.recreate(path / "a.root") as file:
        file.mktree("events", {k: (v.dtype, v.shape[1:]) for k, v in rows.items()})
        for low in range(0, N, 300):  # several baskets
            file["events"].extend({k: v[low : low + 300] for k, v in rows.items()})
        file["histogram"] = np.histogram(rows["mass"])
    return path / "a.root", BY_COLUMNS


def write_rntuple(path: Path, rows) -> tuple[Path, dict]:
    uproot = pytest.importorskip("uproot")
    with uproot.recreate(path / "n.root") as file:
        file.mkrntuple("events", {k: v for k, v in rows.items() if v.ndim == 1})
        file.mktree("maps", {"x": (rows["x"].dtype, (3, 4))})
        file["maps"].extend({"x": rows["x"]})
    names = {"theta": ["events/mass", "events/width"], "x": "maps/x", "z_l": "events/label"}
    return path / "n.root", names


def write_fits(path: Path, rows) -> tuple[Path, dict]:
    fits = pytest.importorskip("astropy.io.fits")
    columns = [
        fits.Column("mass", "D", array=rows["mass"]),
        fits.Column("width", "E", array=rows["width"]),
        fits.Column("label", "J", array=rows["label"]),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="PARAMETERS")
    image = fits.ImageHDU(rows["x"], name="MAPS")
    fits.HDUList([fits.PrimaryHDU(), table, image]).writeto(path / "a.fits")
    return path / "a.fits", {**BY_COLUMNS, "x": "MAPS"}


def write_fits_cube(path: Path, rows) -> tuple[Path, dict]:
    fits = pytest.importorskip("astropy.io.fits")
    columns = [
        fits.Column("mass", "D", array=rows["mass"]),
        fits.Column("width", "E", array=rows["width"]),
        fits.Column("x", "12E", dim="(4,3)", array=rows["x"]),
        fits.Column("label", "J", array=rows["label"]),
    ]
    table = fits.BinTableHDU.from_columns(columns)
    fits.HDUList([fits.PrimaryHDU(np.zeros((2, 2))), table]).writeto(path / "c.fits.gz")
    return path / "c.fits.gz", {**BY_COLUMNS, "x": "1/x"}


FORMATS = [
    write_hdf5,
    write_table,
    write_npy_folder,
    write_npz,
    write_compressed,
    write_npz_folder,
    write_root,
    write_rntuple,
    write_fits,
    write_fits_cube,
]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, rows, write) -> None:
    path, names = write(tmp_path, rows)
    before = snapshot(tmp_path)
    dataset = Dataset(path, fields=names, prior=PRIOR)
    theta = np.stack([rows["mass"], rows["width"]], 1)
    assert len(dataset) == N and list(dataset.fields)[:3] == ["theta", "x", "z_l"]
    assert np.array_equal(dataset["theta"][:], theta)
    assert np.array_equal(dataset["x"][:], rows["x"]) and dataset["x"].dtype == np.float32
    assert np.array_equal(dataset["width"][600:], rows["width"][600:])
    assert dataset["z_l"].dtype == np.int32 and dataset.fields["z_l"].discrete
    some = np.random.default_rng(1).integers(0, N, 40)
    assert np.array_equal(dataset["x"][some], rows["x"][some])
    assert np.array_equal(dataset["z_l"][some], rows["label"][some])
    assert dataset.verify() == [] and not dataset.failures
    seen = [b["theta"] for b in Batches(dataset, ("theta", "x"), 64, memory=20_000).epoch(0)]
    assert np.array_equal(np.sort(np.concatenate(seen), 0), np.sort(theta, 0))
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again["x"][5:9], rows["x"][5:9])
    assert Dataset(path, fields=names).identity == dataset.identity
    dataset.close()
    assert snapshot(tmp_path) == before  # nothing copied, nothing changed
    made = import_arrays(path, tmp_path / "ours", names, PRIOR)
    assert np.array_equal(made["theta"][:], theta) and np.array_equal(made["x"][:], rows["x"])
    assert made["z_l"].dtype == np.int32 and made.verify() == []
    assert made.fields["theta"].names == ("mass", "width")


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_numpy_arrays_with_the_names_of_fields_need_no_names(tmp_path, rows) -> None:
    np.save(tmp_path / "x.npy", rows["x"])
    np.save(tmp_path / "theta.npy", rows["mass"])
    assert Dataset(tmp_path)["theta"].shape == (N, 1)
    assert np.array_equal(Dataset(tmp_path / "x.npy")["x"][3], rows["x"][3])
    maps = Dataset(tmp_path / "x.npy", fields={"x": ["x", "x"]})  # two maps are two channels
    assert maps["x"].shape == (N, 2, 3, 4) and maps.fields["x"].layout == "image"


def test_jagged_branches_are_padded(tmp_path) -> None:
    uproot = pytest.importorskip("uproot")
    ak = pytest.importorskip("awkward")
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 7, N)
    pt, eta = (
        ak.unflatten(rng.standard_normal(counts.sum()).astype("f4"), counts) for _ in range(2)
    )
    with uproot.recreate(tmp_path / "jets.root") as file:
        file.mktree("jets", {"jet": "var * {pt: float32, eta: float32}", "mass": "float32"})
        file["jets"].extend({"jet": ak.zip({"pt": pt, "eta": eta}), "mass": np.arange(N)})
    fields = {"theta": "mass", "x": ["jet_pt", "jet_eta"]}
    dataset = Dataset(tmp_path / "jets.root", fields=fields)
    assert dataset["x"].shape == (N, counts.max(), 2) and dataset.fields["x"].layout == "set"
    assert np.array_equal(dataset["x_length"][:], counts)
    x = dataset["x"][:]
    for i in (0, 5, N - 1):
        assert np.array_equal(x[i, : counts[i], 0], pt[i].to_numpy())
        assert np.array_equal(x[i, : counts[i], 1], eta[i].to_numpy())
    assert not x[np.arange(counts.max()) >= counts[:, None]].any()
    one = Dataset(tmp_path / "jets.root", fields={"x": "jets/jet_pt", "n": "#jets/jet_pt"})
    assert one["x"].shape == (N, counts.max()) and np.array_equal(one["n"][:], counts)
    made = import_arrays(tmp_path / "jets.root", tmp_path / "d", fields)
    assert np.array_equal(made["x"][:], x) and made.fields["x"].layout == "set"


@pytest.mark.parametrize("write", FORMATS)
def test_what_is_asked_for_wrongly_is_told(tmp_path, rows, write) -> None:
    path, names = write(tmp_path, rows)
    for fields, message in [
        (None if "label" in path.name else {"theta": names["theta"]}, "name 'x'|which array"),
        ({**names, "x": "nowhere"}, "has no array 'nowhere'; it holds .*mass"),
        ({**names, "x": [names["x"], names["z_l"]]}, "'x' cannot be stacked"),
    ]:
        with pytest.raises(DatasetError, match=message):
            Dataset(path, fields=fields)
    with pytest.raises(DatasetError, match="which array is which"):
        Dataset(path if path.suffix not in ("", ".npz") else write_hdf5(tmp_path, rows)[0])


@pytest.mark.parametrize(
    "write", [write_hdf5, write_npz, write_compressed, write_root, write_fits]
)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.7])
def test_cut_files_are_told(tmp_path, rows, write, share) -> None:
    path, names = write(tmp_path, rows)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    try:
        x = Dataset(path, fields=names)["x"][:]
    except DatasetError as error:
        assert str(path) in str(error)
    else:  # what is missing is not of x
        assert share == 0.7 and write is write_root and np.array_equal(x, rows["x"])


def test_folders_whose_files_differ_are_told(tmp_path, rows) -> None:
    np.savez(tmp_path / "1.npz", x=rows["x"])
    np.savez(tmp_path / "2.npz", x=rows["x"].astype("f8"))
    with pytest.raises(DatasetError, match=r"2\.npz: field 'x' is float64"):
        Dataset(tmp_path)
    np.savez(tmp_path / "2.npz", y=rows["x"])
    with pytest.raises(DatasetError, match=r"2\.npz has no array 'x'"):
        Dataset(tmp_path)
    np.savez(tmp_path / "2.npz", x=rows["x"], theta=rows["mass"][:5])
    np.savez(tmp_path / "1.npz", x=rows["x"], theta=rows["mass"])
    with pytest.raises(DatasetError, match=r"number of rows"):
        Dataset(tmp_path, fields={"x": "x", "theta": "theta"})


def test_objects_are_never_unpickled(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}, {}]), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([{}, {}]))
    for path in (tmp_path / "x.npy", tmp_path / "a.npz"):
        with pytest.raises(DatasetError, match="Python objects"):
            Dataset(path, fields={"x": "x"})


def test_create_and_import_hold_one_shard_of_what_they_copy(tmp_path) -> None:
    rows = 48_000
    big = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "f4", (rows, 1024))  # 188 MiB
    for low in range(0, rows, 4000):
        big[low : low + 4000] = np.arange(low, low + 4000)[:, None]
    big.flush()
    del big
    before = private()
    peak = []
    made = Dataset.create(tmp_path / "d", x=Watched(Dataset(tmp_path / "x.npy")["x"], peak))
    assert len(made) == rows and made["x"][rows - 1, 0] == rows - 1
    assert max(peak) - before < 100 << 20


class Watched:
    """A column that notes the memory in use."""

    def __init__(self, column, peak) -> None:
        self.column, self.peak = column, peak
        self.dtype, self.shape = column.dtype, column.shape

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, rows):
        self.peak.append(private())
        return self.column[rows]


def private() -> int:
    """Bytes of this process's own memory, without files that are mapped."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def test_create_leaves_nothing_of_what_failed(tmp_path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.ones((9000, 64), "f4"), chunks=(100, 64))
        where = file["x"].id.get_chunk_info(60).byte_offset
    Dataset.create(tmp_path / "good", x=Dataset(tmp_path / "a.h5", fields={"x": "x"})["x"])
    with open(tmp_path / "a.h5", "r+b") as file:
        file.truncate(where)
    with pytest.raises(DatasetError):
        import_arrays(tmp_path / "a.h5", tmp_path / "bad", {"x": "x"})
    assert not (tmp_path / "bad").exists()
    with pytest.raises(DatasetError, match="dataset already"):
        import_arrays(tmp_path / "good", tmp_path / "again", {})


def test_a_reader_that_is_not_installed_is_named(tmp_path, rows, monkeypatch) -> None:
    import sys

    for package, name in (("uproot", "a.root"), ("astropy", "a.fits")):
        (tmp_path / name).write_bytes(b"")
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.io", None)
        with pytest.raises(DatasetError, match=f"pip install {package}"):
            Dataset(tmp_path / name, fields={"x": "x"})


def test_a_foreign_file_is_learnt_from(tmp_path) -> None:
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((2000, 1))
    np.savez(tmp_path / "a.npz", theta=theta, x=theta + 0.1 * rng.standard_normal((2000, 1)))
    dataset = Dataset(tmp_path / "a.npz", prior=Prior(mu=Normal(0.0, 1.0)))
    posterior = simgen.fit(
        "theta | x", dataset, simgen.Flow(transforms=1), max_epochs=5, progress=False
    )
    draws = posterior(np.array([0.5], "f4")).sample((500,), seed=0)
    assert abs(float(draws.mean()) - 0.5) < 0.1


def test_the_command_line_imports_columns(tmp_path, rows) -> None:
    from typer.testing import CliRunner

    from simgen.cli import app

    path, _ = write_npy_folder(tmp_path, rows)
    words = ["import", path, tmp_path / "d", "--field", "theta=mass,width", "--field", "x=x"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert np.array_equal(Dataset(tmp_path / "d")["theta_1"][:], rows["width"])
