"""data-prep-kit's fuzzy deduplication: signatures, clusters and list of duplicates, each with two processes.

Its defaults stand but for the threshold, which is 0.75: 14 bands of 8 rows, Jaccard by the signatures, 5-grams of
lower-case words without punctuation and with numbers as 0, the largest document of a bucket kept. Its last step, which
writes the survivors, is left out: the list is the verdict. Its own command for all steps uses one process
(`dpk_fdedup.transform_python`), and signatures made with `runtime_num_processors` are lost in its pool (release
1.1.8), so here two processes each sign half of the files.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

PROCESSES = 2
BANDS = 14
THRESHOLD = 0.7


def run(*, texts: str, scratch: str) -> list[str]:
    """Return the ids of the dropped documents; `texts` is a folder of Parquet files with the columns int_id_column, id and text."""
    import pyarrow.parquet as pq
    from dpk_fdedup.cluster_analysis.transform_python import (  # type: ignore[import-not-found,unused-ignore]
        ClusterAnalysisPythonTransformConfiguration,
    )
    from dpk_fdedup.get_duplicate_list.transform_python import (  # type: ignore[import-not-found,unused-ignore]
        GetDuplicateListPythonTransformConfiguration,
    )

    _sign(texts, scratch)
    clusters = {"input_folder": f"{scratch}/bands", "output_folder": f"{scratch}/docs_to_remove"}
    at = {"cluster_jaccard_similarity_threshold": THRESHOLD}
    _launch(ClusterAnalysisPythonTransformConfiguration(), clusters, runtime_num_processors=PROCESSES, **at)
    if len(list(Path(scratch, "docs_to_remove").glob("*.parquet"))) != BANDS:  # a band that fails is only logged
        raise RuntimeError("the clusters of a band are missing")
    _launch(GetDuplicateListPythonTransformConfiguration(), {"input_folder": scratch, "output_folder": scratch}, runtime_num_processors=1)
    (found,) = Path(scratch, "docs_to_remove_consolidated").glob("*.parquet")
    dropped = set(pq.read_table(found).column(0).to_pylist())
    table = pq.read_table(texts, columns=["int_id_column", "id"])
    return [name for number, name in zip(*(column.to_pylist() for column in table.columns), strict=True) if number in dropped]


def _sign(texts: str, scratch: str) -> None:
    """Run the first step on the files of each half. Forked: nothing is imported again, and this process runs no threads of polars."""
    import dpk_fdedup.signature_calc.transform_python  # type: ignore[import-not-found,unused-ignore]  # noqa: F401 - before the fork

    processes = []
    for share in range(PROCESSES):
        folder = Path(scratch, f"texts-{share}")
        folder.mkdir()
        for file in sorted(Path(texts).glob("*.parquet"))[share::PROCESSES]:
            (folder / file.name).symlink_to(file)
        processes.append(multiprocessing.get_context("fork").Process(target=_sign_share, args=(str(folder), scratch)))
        processes[-1].start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"signing ended with status {process.exitcode}")


def _sign_share(texts: str, scratch: str) -> None:
    from dpk_fdedup.signature_calc.transform_python import (  # type: ignore[import-not-found,unused-ignore]
        SignatureCalculationPythonTransformConfiguration,
    )

    folders = {"input_folder": texts, "output_folder": scratch}
    _launch(SignatureCalculationPythonTransformConfiguration(), folders, minhash_contents_column="text", scdata_local_config=folders)


def _launch(configuration: Any, folders: dict[str, str], **parameters: Any) -> None:
    """Run one step; it reads its parameters from the command line."""
    from data_processing.runtime.pure_python import PythonTransformLauncher  # type: ignore[import-not-found,unused-ignore]
    from data_processing.utils import ParamsUtils  # type: ignore[import-not-found,unused-ignore]

    given = {"data_local_config": folders, **parameters}
    sys.argv = ParamsUtils.dict_to_req(d={k: ParamsUtils.convert_to_ast(v) if isinstance(v, dict) else v for k, v in given.items()})
    status = PythonTransformLauncher(runtime_config=configuration).launch()
    if status != 0:
        raise RuntimeError(f"{type(configuration).__name__} ended with status {status}")
