"""No blob name means two things: one whose shape the rewrites changed gets a new name."""

from __future__ import annotations

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.stages import whole_name
from deeprebirth_caffe.rewrite.base import Kind
from deeprebirth_caffe.rewrite.rewriter import Rewriter


def rename_changed_blobs(original: Net, rewriter: Rewriter) -> list[tuple[str, str]]:
    """Renames every blob that has another shape than in the original net (or several, where it had one).

    Args:
        original: the net before all passes.
        rewriter: of the conversion; its net is committed afterwards.

    Returns:
        (old, new) names. Outputs of the net keep theirs: users read them by name.
    """
    before = original.blob_shapes()
    outputs = {value.name for view in rewriter.net.views for value in view.outputs}
    # A blob is called like the layer that makes it, where that is a new layer whose name no blob has yet; the sum of a
    # layer's parts like the layer that they are.
    makers: dict[str, str] = {}
    for layer in rewriter.net.layers:
        if layer in rewriter.made and layer.tops and not layer.in_place(0):
            makers.setdefault(layer.tops[0], whole_name(layer.name))
    blobs = {top for net in (original, rewriter.net) for layer in net.layers for top in layer.tops}
    renamed = []
    for name, shapes in rewriter.net.blob_shapes().items():
        if name in before and before[name] != shapes and name not in outputs:
            maker = makers.get(name)
            new = maker if maker is not None and maker not in blobs else rewriter.fresh(name, Kind.RELEARN)
            blobs.add(new)
            rewriter.rename_blob(name, new)
            renamed.append((name, new))
    rewriter.commit()
    return renamed
