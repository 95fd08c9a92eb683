import logging

from mmengine.logging import MMLogger

from clouds_mmseg.engine.portable_runner import (
    install_terminal_filter,
    terminal_handlers,
)


def test_only_openings_are_hidden_and_only_on_the_terminal(tmp_path, capsys):
    path = tmp_path / 'x.log'
    logger = MMLogger.get_instance('test_log_a', log_file=str(path))
    terminal = install_terminal_filter(logger)
    assert install_terminal_filter(logger) is terminal
    terminal.hidden.add('Secret')
    for message in ('Config:\na = 1', 'Secret 1', 'My Config:\nb', 'plain'):
        logger.info(message)
    logger.warning('Secret 2')
    logger.error('Secret 3')
    logger.warning('stem.weight is skipped since its requires_grad=False')
    out = capsys.readouterr().out
    assert 'a = 1' not in out
    assert 'Secret 1' not in out
    assert 'Secret 2' not in out
    assert 'stem.weight' not in out
    assert 'My Config' in out
    assert 'plain' in out
    assert 'Secret 3' in out
    for message in (
        'a = 1',
        'Secret 1',
        'Secret 2',
        'Secret 3',
        'stem.weight',
    ):
        assert message in path.read_text()


def test_files_are_no_terminals(tmp_path):
    logger = MMLogger.get_instance(
        'test_log_b', log_file=str(tmp_path / 'y.log')
    )
    (handler,) = terminal_handlers(logger)
    assert not isinstance(handler, logging.FileHandler)


def test_the_line_after_an_evaluation_is_short(build):
    runner = build(custom_hooks=[])
    runner.test()
    tag, line = runner.log_processor.get_log_after_epoch(runner, 3, 'test')
    assert 'day/IoU.sky' in tag
    assert line.startswith('Iter(test) [3/3]  ')
    assert 'mean_mIoU: ' in line
    assert 'day/' not in line
    assert len(line) < 200
