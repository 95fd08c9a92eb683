"""Pickles that run code when they are loaded, as data.

The calls are those of the lists of picklescan and fickling, and of reports
about how scanners were passed by. Each takes the path of a file that would be
there if it ran.
"""

import pickle
import struct

# Name -> module, function, arguments; {} is the path of the file.
_OPEN = "open('{}', 'w').close()"
_IMPORT = f'import os;{_OPEN}'
CALLS = {
    'os.system': ('os', 'system', ('touch {}',)),
    'posix.system': ('posix', 'system', ('touch {}',)),
    'nt.system': ('nt', 'system', ('touch {}',)),
    'os.popen': ('os', 'popen', ('touch {}',)),
    'os.mkdir': ('os', 'mkdir', ('{}',)),
    'os.execv': ('os', 'execv', ('/bin/touch', ['touch', '{}'])),
    'os.posix_spawn': (
        'os',
        'posix_spawn',
        ('/bin/touch', ['touch', '{}'], {}),
    ),
    'subprocess.Popen': ('subprocess', 'Popen', (['touch', '{}'],)),
    'subprocess.run': ('subprocess', 'run', (['touch', '{}'],)),
    'subprocess.getoutput': ('subprocess', 'getoutput', ('touch {}',)),
    'pty.spawn': ('pty', 'spawn', (['touch', '{}'],)),
    'commands': ('commands', 'getoutput', ('touch {}',)),
    'eval': ('builtins', 'eval', (_OPEN,)),
    'exec': ('builtins', 'exec', (_OPEN,)),
    'eval of Python 2': ('__builtin__', 'eval', (_OPEN,)),
    'compile': ('builtins', 'compile', (_OPEN, 'x', 'exec')),
    'open': ('builtins', 'open', ('{}', 'w')),
    'io.open': ('io', 'open', ('{}', 'w')),
    '_io.FileIO': ('_io', 'FileIO', ('{}', 'w')),
    'import': ('builtins', '__import__', ('antigravity',)),
    'importlib': ('importlib', 'import_module', ('antigravity',)),
    'getattr': ('builtins', 'getattr', ('', 'format')),
    'setattr': ('builtins', 'setattr', ('', 'a', 1)),
    'globals': ('builtins', 'globals', ()),
    'breakpoint': ('builtins', 'breakpoint', ()),
    'runpy': ('runpy', '_run_code', (_IMPORT, {})),
    'run_path': ('runpy', 'run_path', ('{}.py',)),
    'code': ('code', 'interact', ()),
    'InteractiveInterpreter': ('code', 'InteractiveInterpreter', ({},)),
    'pdb': ('pdb', 'run', (_OPEN,)),
    'bdb': ('bdb', 'Bdb.run', (_OPEN,)),
    'timeit': ('timeit', 'timeit', (_OPEN,)),
    'timeit.main': ('timeit', 'main', (['-n1', _OPEN],)),
    'cProfile': ('cProfile', 'run', (_OPEN,)),
    'trace': ('trace', 'Trace.run', (_OPEN,)),
    'doctest': ('doctest', 'debug_script', (_OPEN,)),
    'idlelib.pyshell': ('idlelib.pyshell', 'ModifiedInterpreter', ()),
    'idlelib.calltip': ('idlelib.calltip', 'get_entity', (_OPEN,)),
    'lib2to3': ('lib2to3.pgen2.pgen', 'ParserGenerator', ('{}',)),
    'asyncio': (
        'asyncio.unix_events',
        '_UnixSubprocessTransport',
        (None, ['touch', '{}']),
    ),
    'webbrowser': ('webbrowser', 'open', ('file://{}',)),
    'pip': ('pip', 'main', (['download', '-d', '{}', 'pip'],)),
    'pip._internal': ('pip._internal', 'main', (['--version'],)),
    'ensurepip': ('ensurepip', '_run_pip', (['--version'],)),
    'venv': ('venv', 'create', ('{}',)),
    'shutil': ('shutil', 'copyfile', ('/etc/hostname', '{}')),
    'shutil.rmtree': ('shutil', 'rmtree', ('{}',)),
    'tempfile': ('tempfile', 'mktemp', ()),
    'logging': ('logging', 'FileHandler', ('{}',)),
    'logging.config': (
        'logging.config',
        'listen',
        (0,),
    ),
    'socket': ('socket', 'create_connection', (('127.0.0.1', 9),)),
    'urllib': ('urllib.request', 'urlretrieve', ('file:///x', '{}')),
    'http': ('http.client', 'HTTPSConnection', ('127.0.0.1',)),
    'ftplib': ('ftplib', 'FTP', ()),
    'smtplib': ('smtplib', 'SMTP', ()),
    'ctypes.CDLL': ('ctypes', 'CDLL', ('libc.so.6',)),
    'ctypes': ('ctypes', 'string_at', (0,)),
    'marshal': ('marshal', 'loads', (b'c',)),
    'FunctionType': ('types', 'FunctionType', ()),
    'CodeType': ('types', 'CodeType', ()),
    'partial': ('functools', 'partial', ()),
    'reduce': ('functools', 'reduce', ()),
    'attrgetter': ('operator', 'attrgetter', ('__class__',)),
    'methodcaller': ('operator', 'methodcaller', ('system', 'touch {}')),
    'operator.call': ('operator', 'call', ()),
    'itemgetter': ('operator', 'itemgetter', (0,)),
    'copyreg': ('copyreg', 'add_extension', ('os', 'system', 1)),
    'copyreg._reconstructor': (
        'copyreg',
        '_reconstructor',
        (object, object, None),
    ),
    'pickle.loads': ('pickle', 'loads', (b'cos\ngetpid\n(tR.',)),
    '_pickle.loads': ('_pickle', 'loads', (b'cos\ngetpid\n(tR.',)),
    'dill': ('dill', 'loads', (b'',)),
    'joblib': ('joblib', 'load', ('{}',)),
    'cloudpickle': ('cloudpickle', 'loads', (b'',)),
    'shelve': ('shelve', 'open', ('{}',)),
    'sqlite3': ('sqlite3', 'connect', ('{}',)),
    'codecs': ('codecs', 'decode', (b'x', 'zip')),
    'numpy.load': ('numpy', 'load', ('{}', None, True)),
    'numpy.save': ('numpy', 'save', ('{}', 1)),
    'numpy.memmap': ('numpy', 'memmap', ('{}', 'u1', 'w+', 0, (1,))),
    'numpy.fromfile': ('numpy', 'fromfile', ('/etc/hostname',)),
    'numpy runstring': (
        'numpy.testing._private.utils',
        'runstring',
        (_OPEN, {}),
    ),
    'numpy.f2py': ('numpy.f2py.crackfortran', 'getlincoef', (_OPEN, {})),
    'numpy exec_command': (
        'numpy.distutils.exec_command',
        '_exec_command',
        (),
    ),
    'torch.load': ('torch', 'load', ('{}',)),
    'torch.save': ('torch', 'save', (1, '{}')),
    'torch.serialization.load': ('torch.serialization', 'load', ('{}',)),
    'torch._load_from_bytes': ('torch.storage', '_load_from_bytes', (b'',)),
    'torch.from_file': ('torch', 'from_file', ('{}', True, 4)),
    'torch.jit.load': ('torch.jit', 'load', ('{}',)),
    'torch.hub': ('torch.hub', 'load', ('a/b', 'c')),
    'torch.package': ('torch.package', 'PackageImporter', ('{}',)),
    'torch.compile': ('torch._inductor.codecache', 'write', ('{}', 'py')),
    'torch.utils.collect_env': (
        'torch.utils.collect_env',
        'run',
        ('touch {}',),
    ),
    'torch.utils.bottleneck': (
        'torch.utils.bottleneck.__main__',
        'run_cprofile',
        (_OPEN, {}),
    ),
    'torch.fx': ('torch.fx.graph_module', '_forward_from_src', (_OPEN, {})),
    'torch.UntypedStorage.from_file': (
        'torch',
        'UntypedStorage.from_file',
        ('{}', True, 4),
    ),
    'torch._dynamo': ('torch._dynamo.guards', 'GuardBuilder.get', ('{}',)),
    'torch._rebuild_wrapper': (
        'torch._utils',
        '_rebuild_wrapper_subclass',
        (),
    ),
    'mmengine.Config': ('mmengine', 'Config.fromfile', ('{}',)),
    'mmengine.dump': ('mmengine.fileio', 'dump', ({}, '{}')),
    'cv2': ('cv2', 'imwrite', ('{}.png', 1)),
    'PIL': ('PIL.Image', 'open', ('/etc/hostname',)),
    'sympy': ('sympy', 'sympify', (_OPEN,)),
    'yaml': ('yaml', 'unsafe_load', ('!!python/name:os.system',)),
    'nested name': ('builtins', 'exec.__call__', (_OPEN,)),
    'a safe module': ('collections', 'OrderedDict.__init__', ()),
    'a safe name': ('numpy', 'ndarray.tofile', ()),
    'the log buffer': (
        'mmengine.logging.history_buffer',
        'HistoryBuffer.mean.__globals__',
        (),
    ),
    'reading itself': ('clouds_mmseg.weights.io', 'read_content', ('{}',)),
}


def _filled(value, target):
    if isinstance(value, str):
        return value.replace('{}', target)
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(part, target) for part in value)
    return value


def _text(value):
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def _plain(value):
    """Opcodes that put a value on the stack, without header and end."""
    return pickle.dumps(value, 2)[2:-1]


def calling(name: str, target: str, form: str = 'global') -> bytes:
    """Write a pickle of a dict of weights that makes a call.

    Args:
        name: Of :data:`CALLS`.
        target: Path of the file.
        form: How: ``'global'`` (protocol 2), ``'stack'`` (a name from the
            stack, protocol 4), ``'memo'`` (the name put together from the
            memo), ``'object'`` and ``'instance'`` (the operations of
            protocols 0 and 1), ``'broken'`` (the stream ends in garbage
            after the call), or ``'twice'`` (a harmless pickle before it).
    """
    module, function, arguments = CALLS[name]
    args = _filled(arguments, target)
    line = f'{module}\n{function}\n'.encode()
    call = b'c' + line + _plain(args) + b'R'
    if form == 'stack':
        call = _text(module) + _text(function) + b'\x93' + _plain(args) + b'R'
    elif form == 'memo':
        call = _text(function) + b'q\x010' + _text(module) + b'h\x01\x93'
        call += _plain(args) + b'R'
    elif form == 'object':
        call = b'(c' + line + b''.join(map(_plain, args)) + b'o'
    elif form == 'instance':
        call = b'(' + b''.join(map(_plain, args)) + b'i' + line
    head = b'\x80\x04}' + _text('model') + b'}s' + _text('x')
    if form == 'broken':
        return head + call + b's\xff\xfe not a pickle'
    return head + call + b's.'


def deep_tuple(levels: int) -> bytes:
    """A tuple in a tuple in a tuple ... as the key of a dict."""
    return b'\x80\x02})' + b'\x85' * levels + b'K\x01s.'


def wide_tuple(levels: int) -> bytes:
    """A tuple of twice the same tuple of twice ... as a key."""
    return b'\x80\x02})' + b'2\x86' * levels + b'K\x01s.'


def shared_lists(levels: int) -> bytes:
    """A list of twice the same list of twice ...: a billion laughs."""
    head = b'\x80\x02}' + _text('model') + b'}s' + _text('meta')
    return head + b']' + b'q\x010](h\x01h\x01e' * levels + b's.'


def itself() -> bytes:
    """A list that contains itself."""
    head = b'\x80\x02}' + _text('model') + b'}s' + _text('meta')
    return head + b']q\x01h\x01as.'
