// What a business day took, by terminal, and whether the centre has all of it. Written in ES5.
//
// day.look(): reads the day that is shown; day.begin() also makes its buttons work.
var day = (function () {
  "use strict";

  // The day that is asked for; the one that it is while it is empty.
  var date = "";
  // The day that it is, as last heard.
  var today = "";

  // A date some days later, by the calendar.
  function later(from, days) {
    var fields = from.split("-");
    var moved = new Date(Date.UTC(Number(fields[0]), Number(fields[1]) - 1, Number(fields[2]) + days));
    return moved.toISOString().slice(0, 10);
  }

  function part(each) {
    return each.orders === 0 ? "–" : texts.number(each.orders) + ": " + texts.money(each.sum);
  }

  function row(name, each, className) {
    var line = parts.make("tr", null, className);
    var head = parts.make("th", name);
    head.scope = "row";
    line.appendChild(head);
    [texts.number(each.orders), texts.money(each.sum), part(each.cancelled), part(each.refunded), part(each.unpaid), texts.money(each.net)].forEach(function (text) {
      line.appendChild(parts.make("td", text, "number"));
    });
    return line;
  }

  function name(each) {
    return each.from === "terminal" ? each.terminal : texts.word("from", each.from);
  }

  function centre(state) {
    if (state.everything) {
      return texts.say("operations.day_complete");
    }
    var said = texts.say(state.more ? "operations.day_waits_more" : "operations.day_waits", {
      count: state.waiting,
      since: state.since ? texts.moment(new Date(state.since)) : "–"
    });
    if (state.deadLetters > 0) {
      var seqs = state.dead.map(function (letter) {
        return letter.seq;
      });
      said += " " + texts.say("operations.day_dead", { count: state.deadLetters, seqs: seqs.join(", ") });
    }
    return said;
  }

  function known(found) {
    if (!found.remembered) {
      var days = { count: found.rememberDays };
      return texts.say(found.total.orders === 0 ? "operations.day_forgotten" : "operations.day_incomplete", days);
    }
    return found.total.withoutTotal > 0 ? texts.say("operations.day_unknown", { count: found.total.withoutTotal }) : "";
  }

  function show(found) {
    if (!date) {
      today = found.date;
    }
    document.getElementById("day-date").textContent = found.date + (found.over ? "" : " " + texts.say("operations.day_so_far"));
    document.getElementById("day-after").disabled = !date || date >= today;
    var line = document.getElementById("day-centre");
    line.textContent = centre(found.centre);
    line.className = found.centre.everything ? "day-line" : "day-line waits";
    document.getElementById("day-known").textContent = known(found);
    parts.fill("day", [found.terminals, found.total], function (place) {
      found.terminals.forEach(function (each) {
        place.appendChild(row(name(each), each));
      });
      place.appendChild(row(texts.say("operations.all"), found.total, "all"));
    });
  }

  function look() {
    var wanted = date;
    live.get("/api/v1/day" + (wanted ? "?date=" + wanted : ""), function (found) {
      if (found && wanted === date) {
        show(found);
      }
    });
  }

  function move(days) {
    return function () {
      if (today) {
        date = later(date || today, days);
        date = date >= today ? "" : date;
        look();
      }
    };
  }

  return {
    look: look,
    begin: function () {
      document.getElementById("day-before").onclick = move(-1);
      document.getElementById("day-after").onclick = move(1);
      look();
    }
  };
})();
