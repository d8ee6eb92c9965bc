"""`rebirth tucker`."""

from __future__ import annotations

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.tucker import TuckerOptions


@told("tucker", TuckerOptions)
def command(options: TuckerOptions, as_json: bool) -> None:
    """Decompose NET's convolutions and InnerProducts into two or three thin layers each.

    Truncated Tucker-2 and SVD, to be learned again. Writes what `rebirth convert` writes: the net under its own name,
    deploy.prototxt, solver.prototxt, init.caffemodel and manifest.json. The engine only runs with --calibrate.
    """
    from deeprebirth_caffe.commands.tucker import tucker

    result = tucker(options)
    if as_json:
        print_json(result.manifest)
    else:
        from deeprebirth_caffe.cli.show import show_conversion

        show_conversion(result.manifest, dry_run=options.dry_run, nothing="nothing to decompose")
