"""Registries of the scope ``clouds_mmseg``.

MMEngine marks what a config inherits from ``clouds_mmseg::`` with this scope,
imports the module ``registry`` of the package of that name, and looks types up
in its registries. These hold nothing themselves and pass every look-up on to
MMSegmentation's, where this package registers its modules.
"""

import mmseg.registry
from mmengine.registry import Registry

SCOPE = 'clouds_mmseg'
REGISTRIES = {
    name: Registry(parent.name, parent=parent, scope=SCOPE, locations=[SCOPE])
    for name, parent in vars(mmseg.registry).items()
    if isinstance(parent, Registry)
}
