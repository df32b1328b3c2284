// What is open of each dish, and the way to each station. Written in ES5.
var overview = (function () {
  "use strict";

  // Fills an element anew if it is to show something else than it does.
  function show(id, texts, fill) {
    var place = document.getElementById(id);
    var text = JSON.stringify(texts);
    if (place.getAttribute("data-shown") === text) {
      return;
    }
    place.setAttribute("data-shown", text);
    place.textContent = "";
    texts.forEach(function (each) {
      place.appendChild(fill(each));
    });
  }

  function item(text) {
    var element = document.createElement("li");
    element.textContent = text;
    return element;
  }

  function link(name) {
    var element = document.createElement("a");
    element.href = texts.link("/kitchen" + (name ? "?station=" + encodeURIComponent(name) : ""));
    element.textContent = name || texts.say("kitchen.all_stations");
    return element;
  }

  return {
    // How many of each dish are to be made for these orders, most first.
    dishes: function (orders, isMine) {
      var open = {};
      orders.forEach(function (order) {
        order.lines.forEach(function (line) {
          if (isMine(line) && line.status !== "READY") {
            var dish = cards.dish(line);
            open[dish] = (open[dish] || 0) + line.quantity;
          }
        });
      });
      var dishes = Object.keys(open).sort(function (one, other) {
        return open[other] - open[one] || (one < other ? -1 : 1);
      });
      show("dishes", dishes.map(function (dish) {
        return texts.number(open[dish]) + " × " + dish;
      }), item);
    },
    // The stations that any of these orders names.
    stations: function (orders) {
      var named = {};
      orders.forEach(function (order) {
        order.lines.forEach(function (line) {
          if (line.station) {
            named[line.station.trim()] = true;
          }
        });
      });
      var names = Object.keys(named).sort();
      if (names.length > 0) {
        show("stations", [""].concat(names), link);
        document.getElementById("stations").hidden = false;
      }
    }
  };
})();
