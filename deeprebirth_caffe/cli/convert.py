"""`rebirth convert`."""

from __future__ import annotations

from deeprebirth_caffe.cli.progress import note
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.convert import ConvertOptions


@told("convert", ConvertOptions)
def command(options: ConvertOptions, as_json: bool) -> None:
    """Merge NET's pooling, LRN, BatchNorm and parallel branches into neighbouring convolutions.

    Writes the merged net under its own name, deploy.prototxt, for a training net solver.prototxt, with weights
    init.caffemodel, and manifest.json. Rewrites are exact or have to be relearned; each line says which. The engine
    only runs with --calibrate; --check always is real Caffe's.
    """
    from deeprebirth_caffe.commands.convert import convert

    manifest = convert(options, say=note).manifest
    if as_json:
        print_json(manifest)
    else:
        from deeprebirth_caffe.cli.show import show_conversion

        show_conversion(manifest, dry_run=options.dry_run)
