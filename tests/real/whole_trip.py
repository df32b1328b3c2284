#!/usr/bin/env python3
"""The whole trip on real parts: terminals, mosquitto, the daemon and Apache Kafka, through kill -9, dead lines and restarts.

At the end Kafka is read from its beginning and compared with what the terminals heard: nothing stored is lost, nothing is doubled, and
the events of each order are in their sequence.
"""

import house as houses
import parts
import terminals


def all_is_well(house):
    house.progress()


def the_line_is_cut(house):
    house.kafka.cut_line()
    house.backlog_grows()
    house.kafka.mend_line()
    house.progress()


def the_gateway_is_killed(house):
    house.gateway.kill()
    house.gateway.start()
    house.progress()


def the_gateway_is_killed_while_the_line_is_cut(house):
    house.kafka.cut_line()
    house.backlog_grows()
    house.gateway.kill()
    house.gateway.start()
    house.progress()
    house.kafka.mend_line()
    house.progress()


def acknowledgements_are_lost_and_the_gateway_is_killed(house):
    # Kafka has the events, and the gateway cannot know: after the kill they come again, marked as what they are.
    house.kafka.eat_answers()
    house.backlog_grows()
    house.gateway.kill()
    house.kafka.mend_line()
    house.gateway.start()
    house.progress()


def kafka_is_killed(house):
    house.kafka.kill(1)
    house.backlog_grows()
    house.kafka.start_node(1)
    house.progress()


def the_broker_is_killed(house):
    house.broker.kill()
    house.broker.start()
    house.progress()


def the_gateway_is_stopped(house):
    code = house.gateway.stop()
    assert code == 0, f"the gateway ended with {code}"
    house.gateway.start()
    house.progress()


def the_centre_answers(house):
    # An order that nobody in the house moves on.
    app = next(each for each in house.terminals if isinstance(each, terminals.HttpTerminal))
    order = app.submit(terminals.new_order("order-123"))["orderId"]

    def paid():
        return house.gateway.ask("GET", f"/api/v1/orders/{order}")[1]["payment"] in ("PAID", "FAILED")

    parts.until("the centre has taken the payment, and the house knows", paid, limit_s=90)


TROUBLE = [
    all_is_well,
    the_line_is_cut,
    the_gateway_is_killed,
    the_gateway_is_killed_while_the_line_is_cut,
    acknowledgements_are_lost_and_the_gateway_is_killed,
    kafka_is_killed,
    the_broker_is_killed,
    the_gateway_is_stopped,
    the_centre_answers,
]


def repeats_get_the_first_answer(everyone):
    for terminal in everyone:
        request, first = terminal.answered[0]
        again = parts.until(f"{terminal.name} is answered again", lambda: terminal.ask(request))
        assert again == {**first, "duplicate": True}, f"{again} is not {first}, marked as a duplicate"


def main():
    with houses.house() as house:
        for trouble in TROUBLE:
            trouble(house)
            print(f"ok {trouble.__name__}", flush=True)
        repeats_get_the_first_answer(house.terminals)
        found = house.close()
        print(found)
        errors = house.gateway.errors()
    assert not errors, errors
    assert found["stored"] > 1000 and not houses.wrong(found), houses.wrong(found)
    print(f"{len(TROUBLE)} passed, 0 failed")


if __name__ == "__main__":
    main()
