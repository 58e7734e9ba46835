"""Script that prints, as JSON, where corpora of mtdata's index are published.

``bitext.py`` runs it in a process of its own, because mtdata keeps half a gigabyte of index in
memory and takes over the logging of its process.
"""

import json
import logging
import sys
from typing import Any


def look_up(names: list[str], source_lang: str, target_lang: str) -> dict[str, dict[str, Any]]:
    """Return the fields of a ``Bitext`` for every name.

    Raises:
        LookupError: mtdata does not know a corpus, or the corpus cannot be used here. The message
            lists every such corpus.
    """
    from mtdata.index import INDEX, DatasetId  # noqa: PLC0415
    from mtdata.iso.bcp47 import BCP47Tag, bcp47  # noqa: PLC0415

    languages = bcp47(source_lang), bcp47(target_lang)
    found, problems = {}, []
    for name in names:
        try:
            entry = INDEX[DatasetId.parse(name)]
        except Exception:  # mtdata raises the base class
            problems.append(
                f"mtdata knows no corpus {name!r}. `mtdata list -l {source_lang}-{target_lang}` "
                "lists the corpora that it knows."
            )
            continue
        fits, swapped = BCP47Tag.check_compat_swap(languages, entry.did.langs)
        archive = entry.is_archive and entry.in_ext in ("txt", "sgm")
        if not fits or not (archive or entry.ext in ("tsv", "tsv.gz")):
            problems.append(
                f"{name} cannot be used: it is a {entry.in_ext or entry.ext} file in "
                f"{entry.lang_str}, but must be a txt or sgm file in an archive, or a tsv file, in "
                f"{source_lang} and {target_lang}."
            )
            continue
        sides = list(entry.in_paths if archive else entry.cols or (0, 1))
        found[name] = {
            "url": entry.url,
            "members" if archive else "columns": sides[::-1] if swapped else sides,
            # All files of OPUS have names like en-fr.txt.zip.
            "name": f"{name}.{entry.ext}" if entry.did.group == "OPUS" else None,
        }
    if problems:
        raise LookupError("\n".join(problems))
    return found


if __name__ == "__main__":
    # Before mtdata sets its own level, which would log everything.
    logging.basicConfig(level=logging.WARNING)
    try:
        print(json.dumps(look_up(sys.argv[3:], sys.argv[1], sys.argv[2])))  # noqa: T201
    except LookupError as problem:
        sys.exit(str(problem))
