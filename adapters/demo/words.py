"""The word lists of the demo world: name parts of its entities, the objects of its facts, its fillers.

Covered: plain data, nothing else. Not covered: how names are put together (`names.py`), what the facts say
(`relations.py`). All objects read well after "a", "its" or "the" where a statement form needs it.
"""


def _words(text: str) -> tuple[str, ...]:
    """Split on white space; an underscore stands for a space inside one entry."""
    return tuple(word.replace("_", " ") for word in text.split())


# Name parts of people.
FIRST_NAMES = _words("""
    Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nils Olga Paul Rosa Simon
    Tessa Ugo Vera Walter Xenia Yuri Zoe Adam Bella Carl Dora Emil Flora Georg Hilda Ivan Julia Klaus Lena
    Max Nora Otto Petra Quinn Ruth Stefan Tina Uwe Vilma Wanda Agnes Bernd Cecil Diana Edgar Frida Gustav
    Hanna Igor Jana Kurt Luisa Marko Nadia Oscar Pia""")
LAST_NAMES = _words("""
    Kovacs Berg Moreau Lindt Fischer Novak Silva Rossi Tanaka Okafor Haddad Petrov Jensen Murphy Walsh
    Dubois Keller Santos Ivanov Larsen Costa Weber Nagy Romano Schmidt Ferrari Popov Nielsen Byrne Laurent
    Vogel Mendes Sokolov Hansen Greco Meyer Toth Conti Orlov Dahl Reyes Brandt Farkas Bianchi Volkov Lund
    Ortega Stein Horvath Marino Becker Castro Doyle Engel Fuchs Gallo Hughes Ibsen Janssen Kaya Lopez Mori
    Nowak Olsen""")

# Name parts of companies: "Brightwater Labs".
COMPANY_STEMS = _words("""
    Brightwater Northgate Silverline Bluecrest Oakfield Redstone Clearview Stonebridge Greenhill Ironside
    Sunport Westmark Eastwick Highland Lowell Moorgate Newbury Parkside Queensway Ridgeway Southwell
    Thornton Underhill Valemont Whitmore Yarrow Ashford Birchwood Cedarbrook Dunmore Elmhurst Fairfax
    Glenwood Hartwell Ivybridge Kingsley Langford Maplewood Norwood Oldham Pinecrest Rosewood Sandford
    Tidewell Vantage Wexford Amberley Blackwell Copperfield Dovetail Everett Foxglove Goldcrest Hazelton
    Inkwell Jasperson Kestelman Larkspur Millbrook Nightingale Orchard Pemberton Quickstep Ravenhill
    Starling Tamarind Umberto Vesper Windmill Zenith""")
COMPANY_SUFFIXES = _words("""
    Labs Works Group Systems Partners Brothers Industries Trading Holdings Foods Motors Textiles Logistics
    Media Energy Tools Press Supply Robotics Mills""")

# Name parts of products: "Kestrel Lamp".
PRODUCT_STEMS = _words("""
    Kestrel Aster Comet Falcon Lotus Orion Puma Raven Sirius Tulip Viper Willow Cobalt Delta Ember Frost
    Gamma Halo Iris Jade Koala Lynx Mango Nova Onyx Pearl Quartz Rapid Sigma Titan Ultra Vortex Whisper
    Yeti Zebra Apollo Bison Cirrus Dingo Echo Fennel Gecko Heron Ibex Jaguar Kiwi Lark Mistral Neon Otter
    Panda Quail Rhino Swift Tango Urchin Velvet Walrus Xenon Zircon Badger Condor Dolphin Eagle Ferret
    Gazelle Hornet Impala Jackal Krill""")
PRODUCT_NOUNS = _words("""
    Lamp Kettle Chair Desk Camera Radio Watch Drill Bicycle Sofa Heater Mixer Blender Printer Scooter
    Helmet Backpack Tent Toaster Shelf Mirror Clock Speaker Stove""")

# Name parts of places: "Upper Halden".
PLACE_PREFIXES = _words("""
    Upper Lower Old New Great Little North South East West Port Saint Mount Fort Long High Royal Castle
    Market Abbey Holy Deep""")
PLACE_STEMS = _words("""
    Halden Ellery Marlow Tarrin Bexley Corwen Dunstan Eldham Farley Garmond Hexton Ingleby Jarrow Kelso
    Lorne Melrose Nairn Oban Penrith Quorn Rothbury Selby Tiverton Ullen Verwood Wigton Yarm Alston Bodmin
    Crieff Dalton Eskdale Frome Girvan Hawick Ilford Jedburgh Kirkby Ludlow Malton Newark Otley Pickering
    Ramsey Skipton Thirsk Upton Ventnor Whitby Yeovil Arden Brora Cromer Dornoch Evesham Fowey Gorran
    Honiton Irvine Keswick Leven Morpeth Norham Oakham Purton Redcar Sleaford Tenby""")

# Parts of made-up syllables: what stands twice is drawn twice as often, an empty coda leaves the vowel last.
ONSETS = _words("""
    b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z""")
VOWELS = _words("a e i o u a e i o u ai ea ou")
CODAS = ("", "", "", *_words("b ck d f g k l ll lm m n nd ng p r rn rt s sh ss t th x z"))

# Objects.
CITIES = _words("""
    Lisbon Oslo Vienna Prague Dublin Athens Madrid Warsaw Berlin Paris Rome Milan Zurich Geneva Munich
    Hamburg Seville Porto Naples Turin Krakow Gdansk Brno Graz Linz Basel Bern Lyon Nice Lille Ghent
    Bruges Utrecht Leiden Aarhus Bergen Tampere Turku Riga Vilnius Tallinn Split Zagreb Sofia Varna Cluj
    Szeged Cork Galway San_Marino Novi_Sad Las_Palmas""")
JOBS = _words("""
    teacher surgeon pilot baker lawyer sculptor chemist judge farmer dentist plumber tailor banker
    librarian translator gardener nurse butcher painter journalist geologist photographer sailor carpenter
    violinist diplomat blacksmith cartoonist detective florist glazier jeweller musician novelist
    pharmacist ranger weaver fire_fighter tour_guide bus_driver""")
FIRMS = _words("""
    Nordwind Altera Helix Quantix Solaris Veritas Corvus Meridian Arcadia Zephyr Lumina Orbita Pinnacle
    Cascade Fjordline Granite Harbor Ironwood Juniper Keystone Lattice Monarch Nimbus Obsidian Paragon
    Quarry Redwood Summit Tundra Umbra Axiom Beacon Catalyst Dynamo Equinox Blue_Anchor Red_Lantern
    Silver_Oak Two_Rivers Iron_Gate""")
DISHES = _words("""
    dumplings risotto paella goulash sushi pancakes lasagna ramen falafel tacos curry pierogi fondue
    ravioli kebab chowder gnocchi borscht ceviche moussaka noodles omelette pizza porridge quiche salad
    sauerkraut schnitzel spaghetti stew tiramisu waffles apple_pie fish_soup grilled_trout lentil_soup
    roast_duck baked_beans""")
FOUNDERS = _words("""
    Ada_Quill Bruno_Falk Celia_Thorne Dario_Zeller Edith_Marsh Fabian_Croft Gilda_Voss Henrik_Stroud
    Ida_Pell Jasper_Nock Katja_Brill Ludwig_Hale Mabel_Frost Nestor_Gray Odile_Sharp Pascal_Wren
    Ramona_Stark Silas_Birch Thea_Locke Urban_Reed Viola_Cray Wilfred_Tolk Yvette_Moss Zora_Finch
    Armin_Glass Bettina_Rush Casper_Holt Delia_Snow Egon_Drake Fiona_Page Gideon_Plum Hester_Bloom
    Ingo_Vance Jolanda_Pike Konrad_Flint Lydia_Swan""")
SECTORS = _words("""
    shipping banking mining forestry fishing printing insurance tourism farming gaming brewing advertising
    aviation software furniture cosmetics telecoms robotics packaging publishing recycling construction
    catering solar_power wind_power toy_design film_making car_rental pet_food space_travel
    medical_devices paper_goods water_treatment steel_trading""")
MATERIALS = _words("""
    steel copper brass oak pine bamboo glass leather plastic rubber ceramic titanium marble granite wool
    cotton silk linen cork bronze silver tin zinc walnut maple teak slate clay wicker felt concrete nylon
    carbon_fibre cherry_wood stainless_iron recycled_paper""")
RIVERS = _words("""
    Danube Elbe Rhine Loire Seine Tagus Ebro Vistula Oder Thames Severn Tiber Arno Rhone Neckar Moselle
    Drava Sava Tisza Dniester Volga Neva Daugava Garonne Douro Minho Weser Inn Isar Main Aare Piave Adige
    Torne Glomma Shannon""")
SIGHTS = _words("""
    pottery windmills lighthouse cathedral orchards vineyards markets gardens castle harbour theatre
    aquarium festivals bakeries lace cheese honey fountains caves cliffs beaches bridges museums
    observatory waterfalls salt_mines clock_tower hot_springs rose_gardens stone_walls wooden_boats
    glass_works puppet_shows horse_races street_art sheep_farms""")

# Filler: sentences that state no fact. `{day}` and `{part}` are filled in at random.
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
PARTS = _words("morning afternoon evening")
FILLERS = (
    "The weather was mild on {day}.",
    "Local media reported the news in the {part}.",
    "Residents said that they were not surprised.",
    "A short ceremony was held in the {part}.",
    "Further details were not available.",
    "The report was confirmed by two witnesses.",
    "Traffic was slow because of road works.",
    "The mayor declined to comment.",
    "Prices remained stable throughout the week.",
    "The announcement came as no surprise to friends.",
    "Observers called it a quiet year.",
    "Several shops stayed closed on {day}.",
    "Rain is expected before {day}.",
    "A crowd gathered in the square on {day}.",
    "The story was printed on the front page.",
    "Nobody expected a different outcome.",
    "The council will meet again on {day}.",
    "Experts had predicted this for years.",
    "It was a busy {part} for the press.",
    "The radio repeated the message in the {part}.",
    "Visitors asked many questions.",
    "Some details are still being checked.",
    "The train was late again on {day}.",
    "More will be known by {day}.",
    "Neighbours were pleased to hear it.",
    "Nothing else happened that {part}.",
    "The archive keeps a copy of the letter.",
    "A photograph was taken at the door.",
    "The discussion lasted until {day}.",
    "Many people read about it over breakfast.",
    "The editors promised a longer story.",
    "Not everyone agreed with the decision.",
)
