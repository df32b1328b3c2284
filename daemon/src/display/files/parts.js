// Pieces of a page that are filled anew and keep what a person is doing. Written in ES5.
//
// parts.make(name, text, className): an element. parts.fill(id, data, build): calls build(place) if `data` is not what the element of this
// id shows; whoever had the focus in it by an id gets it back. parts.figures(id, rows): a table of [name, value].
var parts = (function () {
  "use strict";

  function make(name, text, className) {
    var element = document.createElement(name);
    if (text !== undefined && text !== null) {
      element.textContent = text;
    }
    if (className) {
      element.className = className;
    }
    return element;
  }

  function fill(id, data, build) {
    var place = document.getElementById(id);
    var shown = JSON.stringify(data);
    if (place.getAttribute("data-shown") === shown) {
      return;
    }
    var focused = document.activeElement && place.contains(document.activeElement) ? document.activeElement.id : "";
    place.setAttribute("data-shown", shown);
    place.textContent = "";
    build(place);
    var again = focused ? document.getElementById(focused) : null;
    if (again) {
      again.focus();
    }
  }

  function figures(id, rows) {
    fill(id, rows, function (place) {
      rows.forEach(function (row) {
        var line = make("tr");
        var name = make("th", row[0]);
        name.scope = "row";
        line.appendChild(name);
        line.appendChild(make("td", row[1]));
        place.appendChild(line);
      });
    });
  }

  function list(area, id, items, build) {
    document.getElementById(area).hidden = items.length === 0;
    fill(id, items, function (place) {
      items.forEach(function (item) {
        place.appendChild(build(item));
      });
    });
  }

  return { make: make, fill: fill, figures: figures, list: list };
})();
