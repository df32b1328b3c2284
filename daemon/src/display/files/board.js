// The customers' board: numbers in two columns, as large as they fit. Written in ES5.
(function () {
  "use strict";

  // How long a number that has just become ready stands out.
  var NEW_MS = 30000;
  // How long a number is remembered that left: a gateway that starts anew may show an empty board first.
  var REMEMBER_MS = 60000;
  // How long each page stands where there are more numbers than fit.
  var PAGE_MS = 8000;
  // Numbers are never smaller than this part of the window's height: then they are shown page by page.
  var FONT_MIN = 1 / 11;
  // Height of a tile, and room beside its number, in parts of the type's size.
  var TILE_HEIGHT = 1.42;
  var TILE_ROOM = 0.6;
  var COLUMNS_MAX = 12;

  var ruler = document.getElementById("ruler");
  var spoken = document.getElementById("spoken");
  var hint = document.getElementById("hint");
  var clock = document.getElementById("clock");
  // `cells`: room is kept for so many, so that the type does not change its size with every order.
  var columns = {
    preparing: { cells: 6, entries: [], page: 0, element: document.getElementById("preparing"), pages: document.getElementById("preparing-pages") },
    ready: { cells: 4, entries: [], page: 0, element: document.getElementById("ready"), pages: document.getElementById("ready-pages") }
  };
  // When each number became ready and when it was last seen so; null before the first board.
  var readySince = null;
  var widths = {};

  // Width of a text, in parts of its type's size.
  function width(text) {
    if (!widths.hasOwnProperty(text)) {
      ruler.textContent = text;
      widths[text] = ruler.offsetWidth / 100;
    }
    return widths[text];
  }

  function widest(entries) {
    var most = width("00");
    for (var i = 0; i < entries.length; i++) {
      most = Math.max(most, width(entries[i].number));
    }
    return most;
  }

  // The columns and rows in which `count` tiles are largest, and the type's size then.
  function fit(count, text, box) {
    var best = { font: 0, columns: 1, rows: 1 };
    for (var across = 1; across <= COLUMNS_MAX; across++) {
      var down = Math.ceil(count / across);
      var font = Math.min(box.height / down / TILE_HEIGHT, box.width / across / (text + TILE_ROOM));
      if (font > best.font) {
        best = { font: font, columns: across, rows: down };
      }
    }
    return best;
  }

  // How many tiles of the smallest type fit.
  function capacity(font, text, box) {
    var across = Math.max(1, Math.min(COLUMNS_MAX, Math.floor(box.width / (font * (text + TILE_ROOM)))));
    var down = Math.max(1, Math.floor(box.height / (font * TILE_HEIGHT)));
    return across * down;
  }

  function isNew(number, at) {
    return readySince !== null && readySince.hasOwnProperty(number) && at - readySince[number].since < NEW_MS;
  }

  function tile(entry, layout, box, fresh) {
    var element = document.createElement("div");
    element.className = "tile" + (fresh ? " new" : "") + (entry.status === "OUT_FOR_DELIVERY" ? " away" : "");
    // Whole pixels: a fraction too many would push the last tile of a row into the next.
    element.style.width = Math.floor(box.width / layout.columns) + "px";
    element.style.height = Math.floor(box.height / layout.rows) + "px";
    element.style.fontSize = Math.floor(layout.font) + "px";
    var face = document.createElement("div");
    face.className = "face";
    var number = document.createElement("span");
    number.className = "number";
    number.textContent = entry.number;
    face.appendChild(number);
    var note = fresh ? texts.say("board.just_ready") : entry.status === "OUT_FOR_DELIVERY" ? texts.say("board.on_its_way") : "";
    if (note) {
      var word = document.createElement("span");
      word.className = "note";
      word.textContent = note;
      face.appendChild(word);
    }
    element.appendChild(face);
    return element;
  }

  // Where not all fit on one page, what is new stands on the first; else every number keeps its place.
  function newFirst(entries, at) {
    var fresh = [];
    var others = [];
    for (var i = 0; i < entries.length; i++) {
      (isNew(entries[i].number, at) ? fresh : others).push(entries[i]);
    }
    return fresh.concat(others);
  }

  function draw(name) {
    var column = columns[name];
    var at = new Date().getTime();
    var outline = column.element.getBoundingClientRect();
    var box = { width: Math.floor(outline.right - outline.left), height: Math.floor(outline.bottom - outline.top) };
    var entries = column.entries;
    var text = widest(entries);
    var smallest = Math.max(28, window.innerHeight * FONT_MIN);
    var room = capacity(smallest, text, box);
    var pages = Math.max(1, Math.ceil(entries.length / room));
    // As many on each page as on the others.
    var each = Math.ceil(entries.length / pages);
    column.page = column.page % pages;
    if (name === "ready" && pages > 1) {
      entries = newFirst(entries, at);
    }
    var shown = entries.slice(column.page * each, (column.page + 1) * each);
    var layout = fit(Math.max(shown.length, pages > 1 ? each : Math.min(column.cells, room)), text, box);
    var fragment = document.createDocumentFragment();
    for (var i = 0; i < shown.length; i++) {
      fragment.appendChild(tile(shown[i], layout, box, name === "ready" && isNew(shown[i].number, at)));
    }
    column.element.textContent = "";
    column.element.appendChild(fragment);
    column.element.className = "numbers" + (entries.length === 0 ? " empty" : "");
    column.pages.textContent = pages > 1 ? column.page + 1 + " / " + pages : "";
  }

  function drawAll() {
    draw("preparing");
    draw("ready");
  }

  // Notes when numbers became ready; gives those that just did. Whatever is ready on the first board is not news.
  function noteReady(ready) {
    var at = new Date().getTime();
    var before = readySince || {};
    var news = [];
    var number;
    for (var i = 0; i < ready.length; i++) {
      number = ready[i].number;
      if (!before.hasOwnProperty(number)) {
        before[number] = { since: readySince === null ? 0 : at };
        if (readySince !== null) {
          news.push(number);
        }
      }
      before[number].seen = at;
    }
    for (number in before) {
      if (at - before[number].seen > REMEMBER_MS) {
        delete before[number];
      }
    }
    readySince = before;
    return news;
  }

  function show(board) {
    var news = noteReady(board.ready);
    columns.preparing.entries = board.preparing;
    columns.ready.entries = board.ready;
    if (news.length > 0) {
      columns.ready.page = 0;
      spoken.textContent = texts.say("board.spoken", { numbers: news.join(", ") });
      window.setTimeout(drawAll, NEW_MS + 100);
    }
    document.body.className = document.body.className.replace(/\bwaiting\b/, "");
    drawAll();
  }

  function silent(since) {
    document.body.className = since ? "broken" : "";
    hint.textContent = since ? texts.say("board.silent", { time: texts.time(since) }) : "";
    drawAll();
  }

  function tick() {
    clock.textContent = texts.time(new Date());
  }

  window.addEventListener("resize", drawAll);
  window.addEventListener("load", function () {
    widths = {};
    drawAll();
  });
  window.setInterval(tick, 1000);
  window.setInterval(function () {
    columns.preparing.page++;
    columns.ready.page++;
    drawAll();
  }, PAGE_MS);
  tick();
  live.listen({ stream: "/board/stream", poll: "/board.json", show: show, silent: silent });
})();
