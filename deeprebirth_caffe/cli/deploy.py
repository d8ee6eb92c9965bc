"""`rebirth deploy`."""

from __future__ import annotations

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.deploy import DeployOptions


@told("deploy", DeployOptions)
def command(options: DeployOptions, as_json: bool) -> None:
    """Strip training layers and auxiliary heads from NET and fold what can be: deploy.prototxt and deploy.caffemodel.

    All rewrites are exact (docs/exact.md).
    """
    from deeprebirth_caffe.commands.deploy import deploy

    manifest = deploy(options)
    if as_json:
        print_json(manifest)
    else:
        from deeprebirth_caffe.cli.show import show_conversion

        show_conversion(manifest)
