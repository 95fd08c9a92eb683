from mmengine.logging import MessageHub

from clouds_mmseg.utils.result_warnings import (
    forget_result_warnings,
    result_warnings,
    warn_about_results,
)


def test_a_warning_is_kept_once_and_by_its_key():
    hub = MessageHub('warnings_once')
    warn_about_results('labels are missing', hub=hub)
    warn_about_results('labels are missing', hub=hub)
    warn_about_results('1 step', key='steps', hub=hub)
    warn_about_results('2 steps', key='steps', hub=hub)
    assert list(result_warnings(hub).values()) == [
        'labels are missing',
        '2 steps',
    ]
    assert result_warnings(MessageHub('warnings_other')) == {}


def test_a_resumed_run_has_both_parts(recwarn):
    first, second = MessageHub('warnings_a'), MessageHub('warnings_b')
    warn_about_results('of the first part', hub=first)
    warn_about_results('over', key='eval', hub=first)
    forget_result_warnings(['eval'], first)
    warn_about_results('of the second part', hub=second)
    second.load_state_dict(first.state_dict())
    assert sorted(result_warnings(second).values()) == [
        'of the first part',
        'of the second part',
    ]


def test_a_forgotten_warning_can_come_again():
    hub = MessageHub('warnings_again')
    for _ in range(2):
        warn_about_results('few classes', key='classes', hub=hub)
        assert result_warnings(hub) == {'classes': 'few classes'}
        forget_result_warnings(['classes'], hub)
        assert result_warnings(hub) == {}
